"""HTML pages that need nothing beside them: no server, no network, and a policy that lets nothing else in."""
