//! `nydusd` as a library: configuration, mounts, signals. No globals: two daemons fit in one process.

pub mod config;
