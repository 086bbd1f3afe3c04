//! The configuration documents of Nydus 2.x (v1 and v2, JSON and TOML), and the part of them that says where blobs are.
//!
//! A [`Document`] is text whose format and version are known; an [`Object`] gives its fields one by one, each checked
//! where it is read. The daemon reads whole documents this way; tools want the [`Backend`] alone, see [`load_backend`].
//! Whatever can be a credential is a [`Secret`], a [`Url`] or a [`Host`], which no message and no debug form shows. Knows
//! nothing of caches and mounts, and opens no file but the document.

mod backend;
mod document;
mod error;
mod object;
mod secret;

pub use backend::{AccessKeys, Addressing, Azblob, Backend, ClientCert, Credentials, Gcs, HttpProxy, Kind};
pub use backend::{LocalDisk, Mirror, ObjectStore, Origin, Proxy, Registry, Remote, S3, Scheme};
pub use document::{Document, Version};
pub use error::{ConfigError, FieldError, Unknown};
pub use object::{Leaf, Object};
pub use oci_registry::Secret;
pub use secret::{Auth, Host, Url};

use std::path::Path;

/// The backend that the configuration in the file at `path` names. The rest of the document is not looked at.
pub fn load_backend(path: &Path) -> Result<Backend, ConfigError> {
    let (backend, _unknown) = Document::load(path)?.read(|version, top| match version {
        Version::V1 => {
            top.required_object("device", |device| device.required_object("backend", Backend::read_v1))
        }
        Version::V2 => top.required_object("backend", Backend::read_v2),
    })?;
    Ok(backend)
}
