//! The whole product in the lab: real binaries, real TUN devices, the kernel's own NATs.
//!
//! Each test names whose software it tests and against whose, so that the same body runs samewire×samewire,
//! samewire×official and official×official. Tests that lack root or an official program print one line
//! `skipped: why`.

mod cleanup;
mod first_run;
mod journey;
mod killed;
mod mixed;
mod official;
mod paths;
mod portmap;
mod programs;
mod recovery;
mod routes;
mod scene;
mod serving;
mod ssh;
mod tsnet;
mod tunnels;
mod typed;
mod updating;
mod userspace;
