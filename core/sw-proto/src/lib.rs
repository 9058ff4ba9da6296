//! Byte codecs: DERP, disco, STUN, PCP and NAT-PMP, Geneve, TSMP, IP headers.
