"""Several machines on one computer, for tests of what happens when a machine of a cluster is lost."""
