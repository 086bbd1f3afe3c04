//! What the environment says about registries. Asked once, when a daemon or a tool starts; knows only names of variables.

use crate::config::{Auth, Secret};
use crate::{Logins, OpenError, OpenOptions, Registries};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// User and password of a registry.
const PULL_AUTH: &str = "IMAGE_PULL_AUTH";
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

/// What the environment gives as the login of a registry. It is looked at where there is a registry, and only there.
#[derive(Debug, Clone, Default)]
pub struct PullAuth(Option<Secret>);

impl PullAuth {
    /// What `variable` says of it. What is not UTF-8 is refused with all else that is no login, once a registry is opened.
    pub fn of_environment(variable: impl FnOnce(&str) -> Option<OsString>) -> Self {
        Self(variable(PULL_AUTH).map(|value| Secret::new(value.to_string_lossy().trim())))
    }

    /// The login, if one was given.
    pub(crate) fn login(&self) -> Result<Option<Auth>, OpenError> {
        let Some(text) = &self.0 else { return Ok(None) };
        Auth::new(text.expose()).map(Some).ok_or(OpenError::PullAuth)
    }
}

impl OpenOptions {
    /// What one run of a tool opens backends with: all that `variables` say.
    pub fn of_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, OpenError> {
        let variables: Vec<_> = variables.collect();
        let of =
            |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let pull_auth = PullAuth::of_environment(of);
        Ok(Self {
            registries: Registries::of_environment(variables.into_iter())?,
            pull_auth,
            prefetch_bandwidth: None,
        })
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
    #[test]
    fn a_login_of_the_environment_is_one_or_an_error_where_it_is_used() {
        let of = |value: &[u8]| {
            let value = OsString::from_vec(value.to_vec());
            OpenOptions::of_environment(std::iter::once((OsString::from("IMAGE_PULL_AUTH"), value))).unwrap()
        };
        let login = |value: &[u8]| of(value).pull_auth.login();
        assert_eq!(login(b" dTpw\n").unwrap().unwrap().expose(), "dTpw");
        assert!(!format!("{:?}", of(b"dTpw")).contains("dTpw"));
        for wrong in [&b""[..], b"u:p", b"dXA=", b"\xff"] {
            let error = login(wrong).unwrap_err().to_string();
            assert_eq!(error, "IMAGE_PULL_AUTH is not base64 of `user:password`", "{wrong:?}");
        }
        assert!(OpenOptions::default().pull_auth.login().unwrap().is_none());
    }
}
