//! What a configuration says of an object store, in the words of the library that speaks with it.

use crate::config::{AccessKeys, Addressing, Azblob, Backend, Credentials, Gcs, ObjectStore, S3};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use opendal::{Operator, Result, services};
use std::path::Path;

/// The store that `config` describes, and its client; `None` for other backends.
pub(super) fn operator(config: &Backend) -> Option<(&ObjectStore, Result<Operator>)> {
    Some(match config {
        Backend::S3(s3) => (&s3.store, Operator::new(s3_builder(s3))),
        Backend::Oss(store) => (store, Operator::new(oss(store))),
        Backend::Cos(store) => (store, Operator::new(cos(store))),
        Backend::Gcs(gcs) => (&gcs.store, gcs_builder(gcs).and_then(Operator::new)),
        Backend::Azblob(azblob) => (&azblob.store, Operator::new(azblob_builder(azblob))),
        Backend::LocalDisk(_) | Backend::LocalFs(_) | Backend::Registry(_) | Backend::HttpProxy(_) => {
            return None;
        }
    })
}

/// Scheme and host of the store; `None` for the provider's own.
fn endpoint(store: &ObjectStore) -> Option<String> {
    let scheme = match store.scheme {
        crate::config::Scheme::Http => "http",
        crate::config::Scheme::Https => "https",
    };
    store.endpoint.as_ref().map(|host| format!("{scheme}://{host}"))
}

/// The keys, if they are what the store is asked with.
fn keys(store: &ObjectStore) -> Option<&AccessKeys> {
    match &store.credentials {
        Credentials::Keys(keys) => Some(keys),
        Credentials::Anonymous | Credentials::Environment => None,
    }
}

fn s3_builder(s3: &S3) -> services::S3 {
    let store = &s3.store;
    let mut builder = services::S3::default().bucket(&store.bucket_name).region(&s3.region);
    if let Some(endpoint) = endpoint(store) {
        builder = builder.endpoint(&endpoint);
    }
    if store.addressing == Addressing::Virtual {
        builder = builder.enable_virtual_host_style();
    }
    if let Some(keys) = keys(store) {
        builder = builder.access_key_id(keys.id.expose()).secret_access_key(keys.secret.expose());
        if let Some(token) = &keys.token {
            builder = builder.session_token(token.expose());
        }
    }
    match store.credentials {
        Credentials::Environment => builder,
        Credentials::Keys(_) => builder.disable_config_load().disable_ec2_metadata(),
        Credentials::Anonymous => builder.disable_config_load().disable_ec2_metadata().skip_signature(),
    }
}

fn oss(store: &ObjectStore) -> services::Oss {
    let mut builder = services::Oss::default().bucket(&store.bucket_name);
    if let Some(endpoint) = endpoint(store) {
        builder = builder.endpoint(&endpoint);
    }
    if let Some(keys) = keys(store) {
        builder = builder.access_key_id(keys.id.expose()).access_key_secret(keys.secret.expose());
        if let Some(token) = &keys.token {
            builder = builder.security_token(token.expose());
        }
    }
    if store.credentials == Credentials::Anonymous { builder.skip_signature() } else { builder }
}

fn cos(store: &ObjectStore) -> services::Cos {
    let mut builder = services::Cos::default().bucket(&store.bucket_name);
    if let Some(endpoint) = endpoint(store) {
        builder = builder.endpoint(&endpoint);
    }
    if let Some(keys) = keys(store) {
        builder = builder.secret_id(keys.id.expose()).secret_key(keys.secret.expose());
        if let Some(token) = &keys.token {
            builder = builder.security_token(token.expose());
        }
    }
    if store.credentials == Credentials::Environment { builder } else { builder.disable_config_load() }
}

fn gcs_builder(gcs: &Gcs) -> Result<services::Gcs> {
    let store = &gcs.store;
    let mut builder = services::Gcs::default().bucket(&store.bucket_name);
    if let Some(endpoint) = endpoint(store) {
        builder = builder.endpoint(&endpoint);
    }
    let has_own = gcs.credential.is_some() || gcs.credential_path.is_some();
    if let Some(credential) = &gcs.credential {
        builder = builder.credential(credential.expose());
    }
    if let Some(path) = &gcs.credential_path {
        builder = builder.credential(&credential_file(path)?);
    }
    Ok(match store.credentials {
        Credentials::Environment => builder,
        _ if has_own => builder.disable_config_load().disable_vm_metadata(),
        _ => builder.disable_config_load().disable_vm_metadata().skip_signature(),
    })
}

/// The content of a file with a service account, as the library takes it. Read here so that a missing file is told by its name.
fn credential_file(path: &Path) -> Result<String> {
    match std::fs::read(path) {
        Ok(json) => Ok(STANDARD.encode(json)),
        Err(error) => {
            let said = format!("cannot read {}: {error}", path.display());
            Err(opendal::Error::new(opendal::ErrorKind::ConfigInvalid, said))
        }
    }
}

fn azblob_builder(azblob: &Azblob) -> services::Azblob {
    let store = &azblob.store;
    let mut builder = services::Azblob::default().container(&store.bucket_name);
    if let Some(endpoint) = endpoint(store) {
        builder = builder.endpoint(&endpoint);
    }
    if let Some(keys) = keys(store) {
        builder = builder.account_name(keys.id.expose()).account_key(keys.secret.expose());
    }
    match &azblob.sas_token {
        Some(token) => builder.sas_token(token.expose()),
        None if store.credentials == Credentials::Anonymous => builder.skip_signature(),
        None => builder,
    }
}
