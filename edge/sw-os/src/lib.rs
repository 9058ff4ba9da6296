//! Operating system edge: TUN, netlink, nf_tables, DNS, link monitor.
