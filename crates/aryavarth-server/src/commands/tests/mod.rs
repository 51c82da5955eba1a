//! The commands, tried without sockets.

mod connections;
mod data_scripts;
mod fake_server;
mod host_scripts;
mod plans;
mod rows;
mod transactions;
