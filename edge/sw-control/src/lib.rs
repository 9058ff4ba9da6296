//! The control server: ts2021, map streams, admin API, login pages, admin page.
