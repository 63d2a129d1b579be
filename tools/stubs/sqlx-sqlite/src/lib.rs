compile_error!("nothing here speaks to SQLite through sqlx: see Cargo.toml beside this");
