//! Functions that are called in SQL. They read the status page and post commands; nothing else.

mod commands;
mod views;
