//! Where blobs are, as configurations say it. Fields, defaults and rules are those of Nydus 2.x; both versions of the
//! documents have the same objects, in other places. Says nothing about whether what is named exists.

use super::{Auth, FieldError, Host, Leaf, Object, Secret, Url};
use crate::LocalFs;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// Where blobs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A block device, or an image of one.
    LocalDisk(LocalDisk),
    /// Files.
    LocalFs(LocalFs),
    /// Alibaba Cloud OSS.
    Oss(ObjectStore),
    /// Amazon S3 and stores that speak its protocol.
    S3(S3),
    /// Google Cloud Storage.
    Gcs(Gcs),
    /// Azure Blob Storage.
    Azblob(Azblob),
    /// Tencent Cloud COS.
    Cos(ObjectStore),
    /// An OCI registry.
    Registry(Registry),
    /// An HTTP server that has each blob under its id.
    HttpProxy(HttpProxy),
}

/// Tries after the first where the document says nothing: what Nydus 2.x does whatever it says.
const RETRIES: u8 = 3;

/// Names of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in Backend")]
pub enum Kind {
    LocalDisk,
    LocalFs,
    Oss,
    S3,
    Gcs,
    Azblob,
    Cos,
    Registry,
    HttpProxy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::LocalDisk,
        Self::LocalFs,
        Self::Oss,
        Self::S3,
        Self::Gcs,
        Self::Azblob,
        Self::Cos,
        Self::Registry,
        Self::HttpProxy,
    ];

    /// The name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::LocalDisk => "localdisk",
            Self::LocalFs => "localfs",
            Self::Oss => "oss",
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Azblob => "azblob",
            Self::Cos => "cos",
            Self::Registry => "registry",
            Self::HttpProxy => "http-proxy",
        }
    }
}

impl Leaf for Kind {
    const EXPECTED: &'static str =
        "one of localdisk, localfs, oss, s3, gcs, azblob, cos, registry, http-proxy";

    fn from_value(value: &Value) -> Option<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Backend {
    /// Reads `backend` of a version 2 document: `type`, and an object named like it. Objects of other types may stand beside
    /// it; they are checked and not used.
    pub fn read_v2(at: &mut Object) -> Result<Self, FieldError> {
        let wanted: Kind = at.required("type")?;
        let mut chosen = None;
        for kind in Kind::ALL {
            let found = at.object(kind.name(), |at| Self::read(kind, at))?;
            if kind == wanted {
                chosen = found;
            }
        }
        chosen.ok_or_else(|| at.missing(wanted.name(), "an object"))
    }

    /// Reads `device.backend` of a version 1 document: `type` and `config`. Nydus 2.x has no `http-proxy` there.
    pub fn read_v1(at: &mut Object) -> Result<Self, FieldError> {
        let kind = at.required("type")?;
        at.required_object("config", |at| Self::read(kind, at))
    }

    /// Reads the object that describes a backend of `kind`.
    pub fn read(kind: Kind, at: &mut Object) -> Result<Self, FieldError> {
        Ok(match kind {
            Kind::LocalDisk => Self::LocalDisk(LocalDisk::read(at)?),
            Kind::LocalFs => Self::LocalFs(local_fs(at)?),
            Kind::Oss => Self::Oss(ObjectStore::read(at)?),
            Kind::S3 => Self::S3(S3::read(at)?),
            Kind::Gcs => Self::Gcs(Gcs::read(at)?),
            Kind::Azblob => Self::Azblob(Azblob::read(at)?),
            Kind::Cos => Self::Cos(ObjectStore::read_cos(at)?),
            Kind::Registry => Self::Registry(Registry::read(at)?),
            Kind::HttpProxy => Self::HttpProxy(HttpProxy::read(at)?),
        })
    }

    /// Which one it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::LocalDisk(_) => Kind::LocalDisk,
            Self::LocalFs(_) => Kind::LocalFs,
            Self::Oss(_) => Kind::Oss,
            Self::S3(_) => Kind::S3,
            Self::Gcs(_) => Kind::Gcs,
            Self::Azblob(_) => Kind::Azblob,
            Self::Cos(_) => Kind::Cos,
            Self::Registry(_) => Kind::Registry,
            Self::HttpProxy(_) => Kind::HttpProxy,
        }
    }
}

/// Blobs as partitions of a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalDisk {
    /// The device, or a file with its content.
    pub device_path: PathBuf,
    /// The whole device is one blob; otherwise each GPT partition is one, named by its id.
    pub disable_gpt: bool,
}

impl LocalDisk {
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        at.ignore(&["proxy"]);
        Ok(Self { device_path: at.required("device_path")?, disable_gpt: at.or("disable_gpt", false)? })
    }
}

/// Reads `localfs`.
fn local_fs(at: &mut Object) -> Result<LocalFs, FieldError> {
    // Read-ahead is gone from Nydus 2.x but still sent; `proxy` is in whatever the snapshotter sends.
    at.ignore(&["readahead", "readahead_sec", "proxy"]);
    let local = LocalFs {
        blob_file: at.filled("blob_file")?,
        dir: at.filled("dir")?,
        alt_dirs: at.list("alt_dirs")?,
    };
    if local.blob_file.is_none() && local.dir.is_none() {
        return Err(at.missing("dir", "a path, or one in `blob_file`"));
    }
    Ok(local)
}

/// First part of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Scheme {
    Http,
    Https,
}

impl Leaf for Scheme {
    const EXPECTED: &'static str = "http or https";

    fn from_value(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }
}

/// What all backends on the network have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Trust any certificate; a registry may also be asked by http when https fails.
    pub skip_verify: bool,
    /// PEM files of certificate authorities trusted beside those of the system.
    pub ca_cert_files: Vec<PathBuf>,
    /// Shown to servers that ask who we are. Nydus 2.x has none.
    pub client_cert: Option<ClientCert>,
    /// Longest time for a whole request; `None` for no limit. Default 5 s; 0 in a document is no limit.
    pub timeout: Option<Duration>,
    /// Longest time for connecting; as `timeout`.
    pub connect_timeout: Option<Duration>,
    /// How often a failed request is sent again.
    pub retry_limit: u8,
    /// Ask once more for what takes unusually long. Not in Nydus 2.x; default false.
    pub hedge: bool,
    /// Peer or proxy to ask first.
    pub proxy: Proxy,
    /// Servers with the same blobs, asked in this order before the origin.
    pub mirrors: Vec<Mirror>,
}

impl Remote {
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        let limit = |time: Duration| Some(time).filter(|time| !time.is_zero());
        Ok(Self {
            skip_verify: at.or("skip_verify", false)?,
            ca_cert_files: at.list("ca_cert_files")?,
            client_cert: ClientCert::read(at)?,
            timeout: limit(at.seconds("timeout", 5)?),
            connect_timeout: limit(at.seconds("connect_timeout", 5)?),
            retry_limit: at.number("retry_limit", RETRIES, 0..=u8::MAX)?,
            hedge: at.or("hedge", false)?,
            proxy: at.object("proxy", Proxy::read)?.unwrap_or_default(),
            mirrors: at.objects("mirrors", Mirror::read)?,
        })
    }
}

/// A certificate of ours, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCert {
    /// PEM file with the certificate, and those between it and its authority.
    pub cert_file: PathBuf,
    /// PEM file with its private key.
    pub key_file: PathBuf,
}

impl ClientCert {
    /// Reads both or neither.
    fn read(at: &mut Object) -> Result<Option<Self>, FieldError> {
        match (at.filled("client_cert_file")?, at.filled("client_key_file")?) {
            (Some(cert_file), Some(key_file)) => Ok(Some(Self { cert_file, key_file })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(at.missing("client_key_file", "a path, as `client_cert_file` is there")),
            (None, Some(_)) => Err(at.missing("client_cert_file", "a path, as `client_key_file` is there")),
        }
    }
}

/// A server with the same blobs. Nydus 2.4 and later leave mirrors to the snapshotter; documents for 2.1 to 2.3 list them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where it is; no path.
    pub host: Url,
    /// Answers when the mirror is well; `None` to believe that it is.
    pub ping_url: Option<Url>,
    /// Sent with each request to it.
    pub headers: Vec<(String, Secret)>,
    /// Time between two looks at `ping_url`.
    pub health_check_interval: Duration,
    /// After so many failures in a row it is left out for a while.
    pub failure_limit: u8,
}

impl Mirror {
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        Ok(Self {
            host: at.required("host")?,
            ping_url: at.filled("ping_url")?,
            headers: at.pairs("headers")?,
            health_check_interval: at.seconds("health_check_interval", Proxy::CHECK_INTERVAL)?,
            failure_limit: at.number("failure_limit", 5, 1..=u8::MAX)?,
        })
    }
}

/// A forward proxy, for instance a Dragonfly peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is; `None` for direct requests.
    pub url: Option<Url>,
    /// Answers when the proxy is well; `None` to believe that it is.
    pub ping_url: Option<Url>,
    /// May the origin be asked when the proxy fails?
    pub fallback: bool,
    /// Time between two looks at `ping_url`.
    pub check_interval: Duration,
    /// Looks stop when nothing was requested for this long.
    pub check_pause_elapsed: Duration,
    /// Name the origin by http to the proxy.
    pub use_http: bool,
    /// Use the built-in Dragonfly client with this scheduler instead of `url`.
    pub dragonfly_scheduler_endpoint: Option<Url>,
}

impl Proxy {
    /// Time between two looks, in seconds.
    const CHECK_INTERVAL: u32 = 5;
    /// Time without requests after which looks stop, in seconds.
    const CHECK_PAUSE: u32 = 300;

    fn read(at: &mut Object) -> Result<Self, FieldError> {
        Ok(Self {
            url: at.filled("url")?,
            ping_url: at.filled("ping_url")?,
            fallback: at.or("fallback", true)?,
            check_interval: at.seconds("check_interval", Self::CHECK_INTERVAL)?,
            check_pause_elapsed: at.seconds("check_pause_elapsed", Self::CHECK_PAUSE)?,
            use_http: at.or("use_http", false)?,
            dragonfly_scheduler_endpoint: at.filled("dragonfly_scheduler_endpoint")?,
        })
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            url: None,
            ping_url: None,
            fallback: true,
            check_interval: Duration::from_secs(Self::CHECK_INTERVAL.into()),
            check_pause_elapsed: Duration::from_secs(Self::CHECK_PAUSE.into()),
            use_http: false,
            dragonfly_scheduler_endpoint: None,
        }
    }
}

/// A store of objects named by key: a blob is `https://<bucket>.<endpoint>/<prefix><blob id>`, or the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStore {
    /// How to ask; default https.
    pub scheme: Scheme,
    /// Host of the store; `None`, where it is not required, is the provider's own.
    pub endpoint: Option<Host>,
    /// Which bucket, or container.
    pub bucket_name: String,
    /// Stands before the blob id in keys; often empty.
    pub object_prefix: String,
    /// Where the bucket is named.
    pub addressing: Addressing,
    /// Who asks.
    pub credentials: Credentials,
    /// Limits, certificates, proxy.
    pub remote: Remote,
}

/// Where a URL names the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// First label of the host.
    Virtual,
    /// First name of the path.
    Path,
}

impl Leaf for Addressing {
    const EXPECTED: &'static str = "virtual or path";

    fn from_value(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "virtual" => Some(Self::Virtual),
            "path" => Some(Self::Path),
            _ => None,
        }
    }
}

/// Who asks an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody: requests are not signed. What Nydus 2.x does where it has no keys.
    Anonymous,
    /// The owner of these keys.
    Keys(AccessKeys),
    /// Whoever the environment says: variables, files of the provider's tools, identities of workloads, the service of the instance.
    Environment,
}

/// The word that stands for [`Credentials`] in documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Anonymous,
    Keys,
    Environment,
}

impl Leaf for Wanted {
    const EXPECTED: &'static str = "anonymous, keys or environment";

    fn from_value(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "anonymous" => Some(Self::Anonymous),
            "keys" => Some(Self::Keys),
            "environment" => Some(Self::Environment),
            _ => None,
        }
    }
}

impl Credentials {
    /// Reads `credentials`, and what `keys` reads; where the document does not say, keys are used if there are any.
    fn read(
        at: &mut Object,
        keys: impl FnOnce(&mut Object) -> Result<Option<AccessKeys>, FieldError>,
    ) -> Result<Self, FieldError> {
        let (wanted, keys) = (at.filled("credentials")?, keys(at)?);
        match (wanted, keys) {
            (Some(Wanted::Environment), None) => Ok(Self::Environment),
            (Some(Wanted::Anonymous) | None, None) => Ok(Self::Anonymous),
            (Some(Wanted::Keys) | None, Some(keys)) => Ok(Self::Keys(keys)),
            (Some(Wanted::Keys), None) => {
                Err(at.missing("access_key_id", "a string, as `credentials` is keys"))
            }
            (Some(Wanted::Anonymous | Wanted::Environment), Some(_)) => {
                Err(at.wrong("credentials", "not keys", "keys, as there are some"))
            }
        }
    }
}

/// Key and secret of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKeys {
    /// Names the key, or the account.
    pub id: Secret,
    /// Signs with it.
    pub secret: Secret,
    /// Goes along where the keys are good for a while only.
    pub token: Option<Secret>,
}

impl ObjectStore {
    /// Reads `cos`, which is not asked without credentials.
    fn read_cos(at: &mut Object) -> Result<Self, FieldError> {
        let store = Self::read(at)?;
        match store.credentials {
            Credentials::Anonymous => {
                Err(at.missing("access_key_id", "a string, or `credentials` that is environment"))
            }
            Credentials::Keys(_) | Credentials::Environment => Ok(store),
        }
    }

    /// Reads `oss`, whose hosts name buckets as those of `cos` do.
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        let endpoint = at.required("endpoint")?;
        let keys = |at: &mut Object| AccessKeys::read(at, "security_token");
        Self::read_at(at, Some(endpoint), Addressing::Virtual, keys)
    }

    /// Reads what all have.
    fn read_at(
        at: &mut Object,
        endpoint: Option<Host>,
        addressing: Addressing,
        keys: impl FnOnce(&mut Object) -> Result<Option<AccessKeys>, FieldError>,
    ) -> Result<Self, FieldError> {
        Ok(Self {
            scheme: at.or("scheme", Scheme::Https)?,
            endpoint,
            bucket_name: at.text("bucket_name")?,
            object_prefix: at.or("object_prefix", String::new())?,
            addressing,
            credentials: Credentials::read(at, keys)?,
            remote: Remote::read(at)?,
        })
    }
}

impl AccessKeys {
    /// Reads both or neither, and the field `token` with them.
    fn read(at: &mut Object, token: &'static str) -> Result<Option<Self>, FieldError> {
        let token = at.filled(token)?;
        match (at.filled("access_key_id")?, at.filled("access_key_secret")?) {
            (Some(id), Some(secret)) => Ok(Some(Self { id, secret, token })),
            (None, None) if token.is_some() => {
                Err(at.missing("access_key_id", "a string, as there is a token that belongs to it"))
            }
            (None, None) => Ok(None),
            (Some(_), None) => Err(at.missing("access_key_secret", "a string, as `access_key_id` is there")),
            (None, Some(_)) => Err(at.missing("access_key_id", "a string, as `access_key_secret` is there")),
        }
    }
}

/// A store that speaks the S3 protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// Part of signatures.
    pub region: String,
    /// What it shares with others.
    pub store: ObjectStore,
}

impl S3 {
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        let endpoint = at.filled("endpoint")?;
        let addressing = at.or("addressing", Addressing::Path)?;
        let keys = |at: &mut Object| AccessKeys::read(at, "session_token");
        Ok(Self {
            region: at.required("region")?,
            store: ObjectStore::read_at(at, endpoint, addressing, keys)?,
        })
    }
}

/// Google Cloud Storage. Its credentials are no pair of keys, so `store.credentials` never are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gcs {
    /// Base64 of a service account's JSON.
    pub credential: Option<Secret>,
    /// A file with such JSON.
    pub credential_path: Option<PathBuf>,
    /// What it shares with others.
    pub store: ObjectStore,
}

impl Gcs {
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        let endpoint = at.filled("endpoint")?;
        let (credential, credential_path) = (at.filled("credential")?, at.filled("credential_path")?);
        if credential.is_some() && credential_path.is_some() {
            return Err(at.wrong("credential_path", "a path", "none, as `credential` is there"));
        }
        let store = ObjectStore::read_at(at, endpoint, Addressing::Path, |_| Ok(None))?;
        Ok(Self { credential, credential_path, store })
    }
}

/// Azure Blob Storage: `access_key_id` is the account, `access_key_secret` its key, `bucket_name` the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Azblob {
    /// A shared access signature instead of keys.
    pub sas_token: Option<Secret>,
    /// What it shares with others.
    pub store: ObjectStore,
}

impl Azblob {
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        let endpoint = at.required("endpoint")?;
        let sas_token = at.filled("sas_token")?;
        let keys = |at: &mut Object| AccessKeys::read(at, "session_token");
        let store = ObjectStore::read_at(at, Some(endpoint), Addressing::Path, keys)?;
        if sas_token.is_some() && store.credentials != Credentials::Anonymous {
            return Err(at.wrong("sas_token", "a string", "none, as there are other credentials"));
        }
        Ok(Self { sas_token, store })
    }
}

/// A repository of an OCI registry: a blob is `https://<host>/v2/<repo>/blobs/sha256:<blob id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// How to ask; default https.
    pub scheme: Scheme,
    /// Which registry.
    pub host: Host,
    /// Which repository of it.
    pub repo: String,
    /// User and password, if need be.
    pub auth: Option<Auth>,
    /// First bearer token.
    pub registry_token: Option<Secret>,
    /// Replaces the scheme of places the registry redirects to.
    pub blob_url_scheme: Option<Scheme>,
    /// Replaces the host of places the registry redirects to.
    pub blob_redirected_host: Option<Host>,
    /// Limits, certificates, proxy.
    pub remote: Remote,
}

impl Registry {
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        Ok(Self {
            scheme: at.or("scheme", Scheme::Https)?,
            host: at.required("host")?,
            repo: at.text("repo")?,
            auth: at.filled("auth")?,
            registry_token: at.filled("registry_token")?,
            blob_url_scheme: at.filled("blob_url_scheme")?,
            blob_redirected_host: at.filled("blob_redirected_host")?,
            remote: Remote::read(at)?,
        })
    }
}

/// An HTTP server: a blob is `<origin><path>/<blob id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProxy {
    /// Where the server is.
    pub origin: Origin,
    /// Stands before the blob id; often empty.
    pub path: String,
    /// Limits, certificates, proxy.
    pub remote: Remote,
}

/// Where an HTTP server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On the network.
    Url(Url),
    /// Behind a Unix socket. Whether there is one is found out when connecting.
    Socket(PathBuf),
}

impl Leaf for Origin {
    const EXPECTED: &'static str = "an http or https URL, or the absolute path of a Unix socket";

    fn from_value(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        if text.starts_with('/') {
            return PathBuf::from_value(value).map(Self::Socket);
        }
        // Without a scheme it could be a relative path.
        Url::new(text).filter(|_| text.contains("://")).map(Self::Url)
    }

    fn show(value: &Value) -> String {
        Url::show(value)
    }
}

impl HttpProxy {
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        Ok(Self {
            origin: at.required("addr")?,
            path: at.or("path", String::new())?,
            remote: Remote::read(at)?,
        })
    }
}
