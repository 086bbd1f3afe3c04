//! Users of registries and their passwords, and where they are kept on a machine: configurations of docker and of podman, and the
//! credential helpers that these name.
//!
//! Nothing is kept here for longer than a moment: whoever wants a login again reads the files again and runs the helper again, so what
//! changed counts. A password is in no argument, no message and on no disk of ours.

mod docker;
mod helper;
mod store;

pub use docker::{DockerConfig, Entry, is_same_host};
pub use helper::HelperError;
pub use store::{Found, LoginError, Logins};

use crate::Secret;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What opens an account at a registry. No form of output shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Login {
    /// Base64 of `user:password`.
    Password(Secret),
    /// What a token service gives tokens for instead of a password (OAuth2 refresh token).
    Identity(Secret),
    /// What the registry itself takes as a bearer token, as it is.
    Token(Secret),
}

impl Login {
    /// User and password.
    pub fn password(user: &str, password: &str) -> Self {
        Self::Password(Secret::new(BASE64.encode(format!("{user}:{password}"))))
    }

    /// User and password in the clear; `None` where there are none.
    pub fn plain(&self) -> Option<(String, String)> {
        let Self::Password(basic) = self else { return None };
        let plain = String::from_utf8(BASE64.decode(basic.expose()).ok()?).ok()?;
        plain.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
    }

    /// Every text that gives it away, so that it can be taken out of what others say.
    pub fn hidden(&self) -> Vec<Secret> {
        let (Self::Password(text) | Self::Identity(text) | Self::Token(text)) = self;
        let plain = self.plain().map(|(user, password)| [Secret::new(password), Secret::new(user)]);
        std::iter::once(text.clone()).chain(plain.into_iter().flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_base64_and_hidden() {
        let login = Login::password("me", "hidden:word");
        assert_eq!(login, Login::Password(Secret::new("bWU6aGlkZGVuOndvcmQ=")));
        assert_eq!(login.plain(), Some(("me".into(), "hidden:word".into())));
        let hidden: Vec<_> = login.hidden().iter().map(|text| text.expose().to_owned()).collect();
        assert_eq!(hidden, ["bWU6aGlkZGVuOndvcmQ=", "hidden:word", "me"]);
        assert_eq!(format!("{login:?}"), "Password(***)");
        let identity = Login::Identity(Secret::new("t"));
        assert_eq!((identity.plain(), identity.hidden().len()), (None, 1));
    }
}
