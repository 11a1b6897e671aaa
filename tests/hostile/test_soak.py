"""`make soak`: what it takes for growth, and what not."""

from __future__ import annotations

from dataclasses import replace

import soak


def test_growth_is_seen_and_noise_is_none() -> None:
    """Memory by a mebibyte a round, one descriptor, thread or file more; not what happens while all gets warm."""
    steady = soak.Seen(kib=300_000, descriptors=10, threads=2, left=0)
    warming = [replace(steady, kib=200_000 + 1000 * i, descriptors=20) for i in range(30)]
    noise = [replace(steady, kib=300_000 + 900 * (i % 3)) for i in range(60)]
    assert soak.judged(warming + noise) == []
    leak = [replace(steady, kib=300_000 + 200 * i) for i in range(90)]
    assert soak.judged(leak) == [
        "memory: 6000 KiB more in the last third than in the middle one, 4096 at most expected"
    ]
    for name, found in (
        ("descriptors", "10 at most, and later 11"),
        ("threads", "2 at most, and later 3"),
        ("left", "0 at most, and later 1"),
    ):
        more = replace(steady, **{name: getattr(steady, name) + 1})
        assert soak.judged([*[steady] * 80, *[more] * 10]) == [f"{name}: {found}"]
