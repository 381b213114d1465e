"""Who is in the cluster: SWIM and Lifeguard, from discovery to `down`."""
