//! The commands, tried without sockets.

mod data_scripts;
mod fake_server;
mod host_scripts;
mod rows;
mod transactions;
