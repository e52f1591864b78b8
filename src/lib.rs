//! Placeholder.
::pgrx::pg_module_magic!();
