"""The gossip workload: clusters of ``beiran.gossip`` cores on the kernel. Begin with ``world``."""
