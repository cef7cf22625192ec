"""Ray: the only room that imports it. Plain classes from below become actors and workers here."""
