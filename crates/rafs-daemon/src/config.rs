//! The configuration of Nydus 2.x (v1 JSON, v2 JSON and TOML) as one typed value.
