//! Object storage as the programs of a node meet it: credentials of the environment and of the instance.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use testkit::blob::pattern;
use testkit::http::{BlobServer, Reply, Server};
use tests::{Place, program, run_ok};

/// A checked image whose blob is in `server`, a proxy for all buckets, by a program that has nothing in its environment but `variables`. Returns what the
/// store was asked with.
fn authorizations(
    kind: &str,
    server: &BlobServer,
    place: &Place,
    variables: &[(&str, String)],
) -> Vec<String> {
    let before = server.server().count();
    let region = if kind == "s3" { r#""region": "us-east-1","# } else { "" };
    let config = format!(
        r#"{{"scheme": "http", "endpoint": "store.test", {region} "bucket_name": "blobs", "credentials": "environment",
            "proxy": {{"url": "http://{}", "fallback": false}}}}"#,
        server.server().address()
    );
    let mut check = Command::new(program("nydus-image"));
    check.env_clear().env("HOME", place.at("home")).envs(variables.iter().map(|(name, value)| (name, value)));
    check.args(["check", "--data", "--backend-type", kind, "--backend-config"]).arg(config);
    let said = run_ok(check.arg("-B").arg(place.at("boot")));
    assert!(said.contains("RAFS blob data is valid"), "{said}");
    let requests = server.server().requests().split_off(before);
    assert!(
        requests
            .iter()
            .all(|request| request.target.starts_with("http://") && request.target.contains("store.test/"))
    );
    let field =
        |name: &str| requests.iter().map(|request| request.header(name).to_owned()).collect::<Vec<_>>();
    [field("authorization"), field("x-amz-security-token"), field("x-oss-security-token")].concat()
}

/// The service of an instance that has the role `node`: S3's and OSS's are alike but for the path and one name.
fn instance() -> Server {
    Server::start(|request| {
        let path = request.target.split('?').next().unwrap_or_default();
        if path.ends_with("/api/token") {
            return Reply::status(200).body("session");
        }
        if path.ends_with("/security-credentials/") || path.ends_with("/security-credentials") {
            return Reply::status(200).body("node");
        }
        if path.ends_with("/security-credentials/node") {
            let (token, end) = ("INSTANCETOKEN", "2099-01-01T00:00:00Z");
            return Reply::status(200).header("Content-Type", "application/json").body(format!(
                r#"{{"Code": "Success", "AccessKeyId": "INSTANCEKEY", "SecretAccessKey": "s", "AccessKeySecret": "s",
                    "Token": "{token}", "SecurityToken": "{token}", "Expiration": "{end}", "LastUpdated": "2024-01-01T00:00:00Z", "Type": "AWS-HMAC"}}"#
            ));
        }
        Reply::status(404)
    })
}

#[test]
fn credentials_are_those_of_the_environment_or_of_the_instance() {
    let (source, place) = (tempfile::tempdir().unwrap(), Place::new());
    std::fs::create_dir(place.at("home")).unwrap();
    std::fs::write(source.path().join("f"), pattern(1, 50_000)).unwrap();
    place.build(source.path(), &[]);
    let blob = std::fs::read(place.blob()).unwrap();
    let id = place.blob().file_name().unwrap().to_str().unwrap().to_owned();
    let server = BlobServer::start(&[(&id, blob.into())]);
    let instance = instance();
    let at = format!("http://{}", instance.address());
    for (kind, names, endpoint) in [
        (
            "s3",
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        ),
        (
            "oss",
            [
                "ALIBABA_CLOUD_ACCESS_KEY_ID",
                "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
                "ALIBABA_CLOUD_SECURITY_TOKEN",
            ],
            "ALIBABA_CLOUD_ECS_METADATA_SERVICE_ENDPOINT",
        ),
    ] {
        let own: Vec<_> = names.into_iter().zip(["OWNKEY", "s", "OWNTOKEN"].map(str::to_owned)).collect();
        let sent = authorizations(kind, &server, &place, &own);
        assert!(sent.iter().any(|field| field.contains("OWNKEY")), "{kind}: {sent:?}");
        assert!(sent.iter().any(|field| field == "OWNTOKEN"), "{kind}: {sent:?}");
        // With nothing in the environment it is the instance, which is asked directly: its keys are none of a proxy's business.
        let before = instance.count();
        let sent = authorizations(kind, &server, &place, &[(endpoint, at.clone())]);
        assert!(sent.iter().any(|field| field.contains("INSTANCEKEY")), "{kind}: {sent:?}");
        assert!(sent.iter().any(|field| field == "INSTANCETOKEN"), "{kind}: {sent:?}");
        assert!(instance.count() > before, "{kind}");
    }
}
