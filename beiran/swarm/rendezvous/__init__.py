"""The rendezvous node of each blob: its directory of participants, and leases of the origin.

Every node plays both parts. As a participant it registers (``registration``) and fetches what it is
leased (``leaseholder``). As a rendezvous node it keeps the participants (``directory``) and decides
who fetches what from the origin (``leases``).
"""
