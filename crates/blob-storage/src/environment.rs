//! What the environment says about registries. Asked once, when a daemon or a tool starts; knows only names of variables.

use crate::config::Secret;
use crate::{Logins, OpenError, Registries};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// Variables that start so name header fields of all requests to backends.
const HEADER: &str = "NYDUS_HEADER_";

impl Registries {
    /// Registries as `variables` want them: with logins where docker and podman keep them, and with header fields.
    /// Errors: a field whose value is not UTF-8; one that cannot be sent is told when a registry is opened.
    pub fn of_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, OpenError> {
        let variables: BTreeMap<_, _> = variables.collect();
        let logins = Logins::of_environment(|name| variables.get(&OsString::from(name)).cloned());
        let mut headers = Vec::new();
        for (name, value) in &variables {
            let Some(header) = name.to_str().and_then(|name| name.strip_prefix(HEADER)) else { continue };
            let value = value.to_str().ok_or_else(|| OpenError::Header { name: header.to_owned() })?;
            headers.push((header.to_owned(), Secret::new(value)));
        }
        Ok(Self::new(logins).with_headers(headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn fields_are_taken_from_their_variables_or_refused() {
        let of = |name: &str, value: &[u8]| {
            let value = OsString::from_vec(value.to_vec());
            Registries::of_environment(std::iter::once((OsString::from(name), value)))
        };
        let shown = format!("{:?}", of("NYDUS_HEADER_X-Tenant", b"hidden").unwrap());
        assert!(shown.contains("X-Tenant") && !shown.contains("hidden"), "{shown}");
        assert!(!format!("{:?}", of("NYDUS_OTHER", b"x").unwrap()).contains("OTHER"));
        let error = of("NYDUS_HEADER_X", b"\xff").unwrap_err().to_string();
        assert_eq!(error, "the value of NYDUS_HEADER_X is not UTF-8");
    }
}
