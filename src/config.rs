//! Options: flags, environment and a TOML file, validated once.
