//! Blobs in a real registry, `docker-registry`: read as ranges, and by files of a mount; with and without password; killed in the middle.
#![allow(clippy::unwrap_used, reason = "tests")]

mod docker;

use blob_storage::config::ClientCert;
use blob_storage::{Backend, BackendCause, BlobReader, Priority};
use bytes::Bytes;
use docker::{AUTH, DockerRegistry, Kind, REPO};
use oci_registry::client::{ClientOptions, Ping};
use rafs_format::BlobId;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use testkit::blob::pattern;
use testkit::suite::blob_reader_suite;
use testkit::tree::sha256;
use tests::{Daemon, PATIENCE, Place, can_mount, program, run, run_ok};

fn wait<T>(future: impl Future<Output = T>) -> T {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    threads.unwrap().block_on(future)
}

async fn read(blob: &Arc<dyn BlobReader>, range: std::ops::Range<u64>) -> Result<Bytes, BackendCause> {
    blob.read(range, Priority::OnDemand).await.map_err(|error| error.cause)
}

#[test]
fn readers_keep_what_all_readers_promise() {
    let Some(registry) = DockerRegistry::start(Kind::Open) else { return };
    wait(blob_reader_suite(async |bytes: Bytes| registry.open(None).open(&registry.push(&bytes)).unwrap()));
}

#[test]
fn ranges_are_those_of_the_blob() {
    let Some(registry) = DockerRegistry::start(Kind::Open) else { return };
    let content = pattern(7, 3 << 20);
    let backend = registry.open(None);
    let blob = backend.open(&registry.push(&content)).unwrap();
    let missing = backend.open(&BlobId::new(&sha256(b"other")).unwrap()).unwrap();
    let size = content.len() as u64;
    wait(async {
        assert_eq!(blob.size().await.unwrap(), size);
        for range in [0..1, 0..size, size - 1..size, 12345..1_234_567, 5..5] {
            let expected =
                &content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            assert!(read(&blob, range.clone()).await.unwrap() == expected, "{range:?}");
        }
        for range in [size - 1..size + 1, size..size + 1, size + 10..size + 20] {
            let error = read(&blob, range.clone()).await.unwrap_err();
            assert!(matches!(error, BackendCause::OutOfRange { size: found } if found == size), "{error}");
        }
        for error in [missing.size().await.unwrap_err().cause, read(&missing, 0..4).await.unwrap_err()] {
            assert!(matches!(error, BackendCause::NotFound), "{error}");
        }
        let all = (0..64_u64).map(|n| {
            let (blob, start) = (Arc::clone(&blob), n * 48_000);
            tokio::spawn(async move { (start, read(&blob, start..start + 40_000).await.unwrap()) })
        });
        for one in all.collect::<Vec<_>>() {
            let (start, found) = one.await.unwrap();
            let start = usize::try_from(start).unwrap();
            assert!(found == content[start..start + 40_000], "{start}");
        }
    });
}

#[test]
fn a_password_opens_and_a_wrong_one_does_not() {
    let Some(registry) = DockerRegistry::start(Kind::Password) else { return };
    let id = registry.push(b"content");
    wait(async {
        let right = registry.open(Some(AUTH)).open(&id).unwrap();
        assert_eq!(read(&right, 1..4).await.unwrap(), "ont");
        for auth in [None, Some("dTpub3QtaXQ=")] {
            let blob = registry.open(auth).open(&id).unwrap();
            let error = blob.read(1..4, Priority::OnDemand).await.unwrap_err();
            assert!(matches!(error.cause, BackendCause::Auth(_)), "{error}");
            let said = format!("{error} {error:?}");
            assert!(!said.contains("dTpub3QtaXQ") && !said.contains("not-it"), "{said}");
        }
    });
}

#[test]
fn certificates_are_checked_against_the_authorities_given() {
    let Some(registry) = DockerRegistry::start(Kind::Tls) else { return };
    // Whether the blob is there does not matter: who says so has been believed.
    let id = BlobId::new(&sha256(b"other")).unwrap();
    let ca = registry.dir.path().join("ca.pem");
    let stranger = registry.dir.path().join("other.pem");
    run_ok(
        Command::new("openssl")
            .args("req -x509 -newkey rsa:2048 -nodes -subj /CN=y -days 2 -keyout".split(' '))
            .args(["/dev/null", "-out"])
            .arg(&stranger),
    );
    wait(async {
        for (files, skip_verify, believed) in [
            (vec![ca], false, true),
            (vec![], false, false),
            (vec![stranger], false, false),
            (vec![], true, true),
        ] {
            let backend = registry.open_with(None, |remote| {
                (remote.ca_cert_files, remote.skip_verify) = (files.clone(), skip_verify);
            });
            let error = backend.open(&id).unwrap().read(0..4, Priority::OnDemand).await.unwrap_err();
            assert_eq!(
                matches!(error.cause, BackendCause::NotFound),
                believed,
                "{files:?} {skip_verify} {error}"
            );
            assert_eq!(error.to_string().contains("certificate"), !believed, "{error}");
        }
    });
}

#[test]
fn a_registry_that_wants_certificates_gets_ours() {
    let Some(registry) = DockerRegistry::start(Kind::Mutual) else { return };
    let id = BlobId::new(&sha256(b"other")).unwrap();
    let file = |name: &str| registry.dir.path().join(name);
    let ours = ClientCert { cert_file: file("leaf.pem"), key_file: file("leaf.key") };
    wait(async {
        for (client_cert, welcome) in [(Some(ours), true), (None, false)] {
            let backend = registry.open_with(None, |remote| {
                (remote.ca_cert_files, remote.client_cert) = (vec![file("ca.pem")], client_cert.clone());
            });
            let error = backend.open(&id).unwrap().read(0..4, Priority::OnDemand).await.unwrap_err();
            // Whether the blob is there does not matter: who says so has let us in.
            assert_eq!(matches!(error.cause, BackendCause::NotFound), welcome, "{client_cert:?} {error}");
            // Whoever looks whether it is well is asked for the same.
            let options = ClientOptions {
                ca_cert_files: vec![file("ca.pem")],
                client_cert: client_cert.map(|cert| (cert.cert_file, cert.key_file)),
                ..ClientOptions::default()
            };
            let url = format!("https://127.0.0.1:{}/v2/", registry.port);
            let ping = Ping::new(&url, PATIENCE, &options).unwrap();
            assert_eq!(ping.ask().await.is_ok(), welcome);
        }
    });
}

#[test]
fn a_registry_that_comes_back_is_read_again() {
    let Some(mut registry) = DockerRegistry::start(Kind::Password) else { return };
    let blob = registry.open(Some(AUTH)).open(&registry.push(b"content")).unwrap();
    wait(async {
        for _ in 0..3 {
            assert_eq!(read(&blob, 0..7).await.unwrap(), "content");
            registry.down();
            let error = read(&blob, 0..7).await.unwrap_err();
            assert!(error.is_temporary() && error.to_string().contains("Connection refused"), "{error}");
            registry.up();
        }
        assert_eq!(read(&blob, 0..7).await.unwrap(), "content");
    });
}

/// Files by path below `root`, which has one level of directories at most.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let names =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| (name.clone(), std::fs::read(root.join(&name)).unwrap())).collect()
}

#[test]
fn an_image_in_a_registry_is_mounted_and_outlives_outages() {
    if !can_mount() {
        return;
    }
    let Some(mut registry) = DockerRegistry::start(Kind::Password) else { return };
    let source = tempfile::tempdir().unwrap();
    for n in 0..20_u32 {
        let content = pattern(n, 1000 + 30_000 * n as usize);
        std::fs::write(source.path().join(format!("f{n}")), content).unwrap();
    }
    let place = Place::new();
    place.build(source.path(), &["--chunk-size", "0x4000"]);
    registry.push(&std::fs::read(place.blob()).unwrap());
    // A wrong password; the right one comes by the environment.
    let backend = registry.backend(Some("dTpub3QtaXQ="));
    let config = format!(
        r#"{{"device": {{"id": "/1", "backend": {backend}, "cache": {{"type": "blobcache", "config": {{"work_dir": "{}"}}}}}},
            "mode": "direct", "digest_validate": false, "iostats_files": false, "enable_xattr": true, "amplify_io": 1048576}}"#,
        place.at("cache").display()
    );
    std::fs::write(place.at("config.json"), config).unwrap();
    let mount = || {
        let mut command = place.command();
        let log = std::fs::File::options().create(true).append(true).open(place.at("log")).unwrap();
        command.env("IMAGE_PULL_AUTH", AUTH).stderr(log);
        Daemon::start(command, &place.at("mnt"))
    };
    let expected = files(source.path());
    let content = |name: &str| std::fs::read(place.at("mnt").join(name));
    let is_io_error = |name: &str| content(name).unwrap_err().raw_os_error() == Some(5);

    let daemon = mount();
    for name in ["f3", "f17"] {
        assert!(content(name).unwrap() == expected[name], "{name}");
    }
    registry.down();
    assert!(is_io_error("f5"));
    assert!(content("f17").unwrap() == expected["f17"]);
    daemon.stop();

    // Mounted while the registry is away: what was read is there, and names and sizes are.
    let daemon = mount();
    for name in ["f3", "f17"] {
        assert!(content(name).unwrap() == expected[name], "{name}");
    }
    assert!(is_io_error("f5") && is_io_error("f19"));
    assert_eq!(std::fs::metadata(place.at("mnt/f19")).unwrap().len(), expected["f19"].len() as u64);
    registry.up();
    assert!(files(&place.at("mnt")) == expected);
    daemon.stop();

    let log = std::fs::read_to_string(place.at("log")).unwrap();
    assert!(log.contains("registry http://127.0.0.1:"), "errors are told: {log}");
    for secret in [AUTH, "hidden-word", "dTpub3QtaXQ", "not-it"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn a_daemon_without_credentials_asks_docker_and_its_helpers() {
    if !can_mount() {
        return;
    }
    let Some(registry) = DockerRegistry::start(Kind::Password) else { return };
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("f"), pattern(1, 100_000)).unwrap();
    let place = Place::new();
    place.build(source.path(), &[]);
    registry.push(&std::fs::read(place.blob()).unwrap());
    let config = format!(
        r#"{{"device": {{"backend": {}, "cache": {{"type": "blobcache", "config": {{"work_dir": "{}"}}}}}}, "mode": "direct"}}"#,
        registry.backend(None),
        place.at("cache").display()
    );
    std::fs::write(place.at("config.json"), config).unwrap();
    std::fs::create_dir(place.at("docker")).unwrap();
    let host = format!("127.0.0.1:{}", registry.port);
    let login = |text: String| std::fs::write(place.at("docker/config.json"), text).unwrap();
    let mut command = place.command();
    let path = format!("{}:{}", place.at("docker").display(), std::env::var("PATH").unwrap());
    let log = std::fs::File::options().create(true).append(true).open(place.at("log")).unwrap();
    command.env("DOCKER_CONFIG", place.at("docker")).env("PATH", path).stderr(log);
    let daemon = Daemon::start(command, &place.at("mnt"));
    let content = || std::fs::read(place.at("mnt/f"));
    assert_eq!(content().unwrap_err().raw_os_error(), Some(5), "nobody is logged in");
    // docker login, wrong and then by a helper.
    login(format!(r#"{{"auths": {{"{host}": {{"auth": "dTpub3QtaXQ="}}}}}}"#));
    assert_eq!(content().unwrap_err().raw_os_error(), Some(5), "with another password");
    let helper = place.at("docker/docker-credential-own");
    std::fs::write(&helper, "#!/bin/sh\necho '{\"Username\":\"u\",\"Secret\":\"hidden-word\"}'\n").unwrap();
    run_ok(Command::new("chmod").arg("755").arg(helper));
    login(format!(r#"{{"credHelpers": {{"{host}": "own"}}}}"#));
    assert!(content().unwrap() == pattern(1, 100_000));
    daemon.stop();
    let log = std::fs::read_to_string(place.at("log")).unwrap();
    assert!(log.contains("and no user is given"), "{log}");
    for secret in ["hidden-word", "dTpub3QtaXQ", "not-it"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// `-C`, and the options that describe a backend; the password from a file, the environment or the configuration.
#[test]
fn tools_read_blobs_from_a_registry() {
    let Some(registry) = DockerRegistry::start(Kind::Password) else { return };
    let (source, place) = (tempfile::tempdir().unwrap(), Place::new());
    for n in 0..9_u32 {
        std::fs::write(source.path().join(format!("f{n}")), pattern(n, 50_000 * n as usize)).unwrap();
    }
    place.build(source.path(), &["--chunk-size", "0x4000"]);
    registry.push(&std::fs::read(place.blob()).unwrap());
    let tool = |args: &[&str]| {
        let mut command = Command::new(program("nydus-image"));
        let (name, rest) = args.split_first().unwrap();
        command.arg(name).arg("-B").arg(place.at("boot")).args(rest);
        command
    };
    let object = |auth: &str| {
        let host = format!("127.0.0.1:{}", registry.port);
        format!(r#"{{"scheme": "http", "host": "{host}", "repo": "{REPO}", "auth": "{auth}"}}"#)
    };
    let said = run_ok(
        tool(&["check", "--data", "--backend-type", "registry", "--backend-config"]).arg(object(AUTH)),
    );
    assert!(said.contains("RAFS blob data is valid"), "{said}");

    let (config, file, out) = (place.at("c.json"), place.at("b.json"), place.at("out"));
    let wrong = "dTpub3QtaXQ=";
    std::fs::write(
        &config,
        format!(r#"{{"version": 2, "backend": {{"type": "registry", "registry": {}}}}}"#, object(wrong)),
    )
    .unwrap();
    let said = run_ok(tool(&["check", "--data", "-C"]).arg(&config).env("IMAGE_PULL_AUTH", AUTH));
    assert!(said.contains("RAFS blob data is valid"), "{said}");
    let output = run(tool(&["check", "--data", "-C"]).arg(&config));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("registry http://127.0.0.1:"), "{said}");
    assert!(!said.contains(wrong) && !said.contains("not-it"), "{said}");

    std::fs::write(&file, object(AUTH)).unwrap();
    let mut unpack = tool(&["unpack", "--backend-type", "registry", "--backend-config-file"]);
    run_ok(unpack.arg(&file).arg("--output-dir").arg(&out));
    assert!(files(&out) == files(source.path()));
}

/// A disk of an image whose blobs are in a registry is that of the same blobs in a directory, with its hash tree.
#[test]
fn an_image_in_a_registry_is_exported() {
    let Some(registry) = DockerRegistry::start(Kind::Password) else { return };
    let (source, place) = (tempfile::tempdir().unwrap(), Place::new());
    for n in 0..9_u32 {
        std::fs::write(source.path().join(format!("f{n}")), pattern(n, 50_000 * n as usize)).unwrap();
    }
    place.build(source.path(), &["--chunk-size", "0x4000"]);
    registry.push(&std::fs::read(place.blob()).unwrap());
    let entry = |auth: &str| {
        let host = format!("127.0.0.1:{}", registry.port);
        format!(
            r#"{{"type": "bootstrap", "id": "x", "config_v2": {{"version": 2, "metadata_path": "{}", "backend": {{"type": "registry",
                "registry": {{"scheme": "http", "host": "{host}", "repo": "{REPO}", "auth": "{auth}"}}}}}}}}"#,
            place.at("boot").display()
        )
    };
    let export = || {
        let mut command = Command::new(program("nydus-image"));
        command.args(["export", "--log-level", "warn", "--block", "--verity"]);
        command
    };
    std::fs::write(place.at("entry.json"), entry(AUTH)).unwrap();
    let said = run_ok(export().arg("-C").arg(place.at("entry.json")).arg("-O").arg(place.at("remote.disk")));
    let local = ["-B", "-D", "-O"].into_iter().zip(["boot", "blobs", "local.disk"]);
    let local: Vec<_> = local.flat_map(|(option, name)| [option.into(), place.at(name)]).collect();
    let root = |said: &str| said.split(' ').next_back().unwrap().trim().to_owned();
    assert_eq!(root(&said), root(&run_ok(export().args(local))));
    let disk = |name: &str| std::fs::read(place.at(name)).unwrap();
    assert!(disk("remote.disk") == disk("local.disk"));
    // Nothing is left of one that cannot be had.
    std::fs::write(place.at("entry.json"), entry("dTpub3QtaXQ=")).unwrap();
    let output = run(export().arg("-C").arg(place.at("entry.json")).arg("-O").arg(place.at("no.disk")));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("registry http://127.0.0.1:"), "{said}");
    assert!(!said.contains("not-it") && !place.at("no.disk").exists(), "{said}");
}
