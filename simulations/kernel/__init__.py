"""The kernel of both simulations: virtual time, hosts, links, network, and scenarios as data."""
