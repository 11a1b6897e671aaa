"""The nets of bench_nets.py: described from their papers in few words, as NetParameters over Input layers.

`table.py` has the nets, `handwritten.py` the same as a user of PyTorch would write them.
"""
