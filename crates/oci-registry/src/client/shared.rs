//! Clients of one process. Those who ask for the same repository with the same options get the same client, and with it its tokens and what
//! it knows; those who ask for other ones share connections where nothing speaks against it, and the logins of this machine.

use super::http::Transport;
use super::{Client, ClientOptions, SetupError};
use crate::login::Logins;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Whoever is in use, by what it was made from. Keeps nobody alive.
type Users<K, V> = Mutex<HashMap<K, Weak<V>>>;

/// The clients of a process. A client lives as long as somebody has it.
#[derive(Default)]
pub struct Clients {
    logins: Option<Arc<Logins>>,
    https: Users<Transport, reqwest::Client>,
    clients: Users<(ClientOptions, Transport), Client>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Clients").field("logins", &self.logins).finish_non_exhaustive()
    }
}

impl Clients {
    /// No clients yet. They look into `logins` when they are given no login, or one that is refused.
    pub fn new(logins: Option<Arc<Logins>>) -> Self {
        Self { logins, ..Self::default() }
    }

    /// A client with `options`, maybe one that others have; asks nothing yet. What [`Client::set_login`] does to it, it does for all who share
    /// it. Errors: names that cannot be in a URL, certificates that cannot be read.
    pub fn client(&self, options: &ClientOptions) -> Result<Arc<Client>, SetupError> {
        let transport = options.transport()?;
        shared(&self.clients, (options.clone(), transport.clone()), || {
            let build = || transport.build().map(Arc::new);
            let http = shared(&self.https, transport.clone(), build)?;
            Client::with(options, http, self.logins.clone()).map(Arc::new)
        })
    }
}

/// The user of `key`: who is there, or who is made. Those that nobody has any more are forgotten.
fn shared<K: Hash + Eq, V>(
    users: &Users<K, V>,
    key: K,
    make: impl FnOnce() -> Result<Arc<V>, SetupError>,
) -> Result<Arc<V>, SetupError> {
    let mut users = users.lock();
    if let Some(user) = users.get(&key).and_then(Weak::upgrade) {
        return Ok(user);
    }
    let made = make()?;
    users.retain(|_, user| user.strong_count() > 0);
    users.insert(key, Arc::downgrade(&made));
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::login::Login;

    #[test]
    fn equal_options_share_a_client_and_alike_ones_connections() {
        let clients = Clients::default();
        let client = |change: &dyn Fn(&mut ClientOptions)| {
            let mut options =
                ClientOptions { host: "h".into(), repo: "a".into(), ..ClientOptions::default() };
            change(&mut options);
            clients.client(&options).unwrap()
        };
        let first = client(&|_| {});
        assert!(Arc::ptr_eq(&first, &client(&|_| {})));
        type Change = &'static dyn Fn(&mut ClientOptions);
        let others: [(Change, bool); 5] = [
            (&|options| options.repo = "b".into(), true),
            (&|options| options.host = "i".into(), true),
            (&|options| options.login = Some(Login::password("u", "p")), true),
            (&|options| options.skip_verify = true, false),
            (&|options| options.timeout = Some(std::time::Duration::from_secs(1)), false),
        ];
        for (change, connections) in others {
            let other = client(change);
            assert!(!Arc::ptr_eq(&first, &other), "{other:?}");
            assert_eq!(Arc::ptr_eq(&first.http, &other.http), connections, "{other:?}");
        }
        assert_eq!(clients.clients.lock().len(), 2, "those that nobody has are forgotten");
    }

    #[test]
    fn authorities_count_by_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let transport = || {
            let ca_cert_files = vec![path.clone()];
            ClientOptions { ca_cert_files, ..ClientOptions::default() }.transport()
        };
        assert!(matches!(transport(), Err(SetupError::ReadCertificates { .. })));
        std::fs::write(&path, "one").unwrap();
        let first = transport().unwrap();
        assert!(first == transport().unwrap());
        std::fs::write(&path, "two").unwrap();
        assert!(first != transport().unwrap());
    }
}
