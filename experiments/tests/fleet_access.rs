//! The ways to a NATS server that wants to know who comes: TLS with certificates at both ends, an
//! NKey, and a credentials file of an account whose keys an operator has signed.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{assert_exit, said};
use lan::{Lan, URL};
use needs::test;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, SanType};
use serde_json::{Value, json};

needs::main!();

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// An agent that comes this way is seen by who comes the same way, and works.
fn assert_works(lan: &Lan, access: &[&str]) {
    let _agent = lan.agent(0, "a", access);
    let arguments = [&["hosts", "--json", "--nats", URL], access].concat();
    common::wait_until("the agent is there", || {
        let output = lan.lab(None, &arguments).output().expect("lab");
        assert_exit(&output, 0);
        let hosts: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        hosts.len() == 1 && hosts[0]["name"] == "a"
    });
    // The stream of a run needs JetStream, too.
    let (smoke, out) = (common::experiment("smoke"), lan.path("out"));
    let short = ["--set", "probes=\"Off\"", "--set", "phases.shake.seconds=1"];
    let of_run = ["run", path(&smoke), "--nats", URL, "--out", path(&out)];
    let arguments = [&of_run[..], &short, &["--set", "phases.everything.seconds=1"], access];
    let output = lan.lab(None, &arguments.concat()).output().expect("lab");
    assert_exit(&output, 0);
    assert!(said(&output).contains("the books balance"), "{}", said(&output));
}

/// Refused, with these words.
fn assert_refused(lan: &Lan, access: &[&str], words: &str) {
    let arguments = [&["hosts", "--nats", URL], access].concat();
    let output = lan.lab(None, &arguments).output().expect("lab");
    assert_exit(&output, 2);
    assert!(said(&output).contains(words), "\"{words}\" in {}", said(&output));
}

#[test]
fn with_tls_both_ends_show_certificates() {
    if !lan::can_be() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).expect("written");
        path(&file).to_owned()
    };
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    let certificate = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::new(10, 91, 0, 1)))];
        let signed = params.signed_by(&key, &authority).expect("a certificate");
        (
            file(&format!("{name}.pem"), &signed.pem()),
            file(&format!("{name}.key"), &key.serialize_pem()),
        )
    };
    let (ca, server, client) =
        (file("ca.pem", &authority.pem()), certificate("s"), certificate("c"));
    let config = format!(
        "jetstream {{ store_dir: \"STORE\" }}
        tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{ca}\", verify: true }}",
        server.0, server.1
    );
    let lan = Lan::with(1, &config);
    assert_works(&lan, &["--tls-ca", &ca, "--tls-cert", &client.0, "--tls-key", &client.1]);
    assert_refused(&lan, &[], "no TLS with it");
    assert_refused(&lan, &["--tls-ca", &ca], "NATS at nats://10.91.0.1:4222");
    assert_refused(&lan, &["--tls-ca", "/nowhere.pem"], "--tls-ca /nowhere.pem: No such");
}

#[test]
fn an_nkey_is_an_account() {
    if !lan::can_be() {
        return;
    }
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let config = format!(
        "jetstream {{ store_dir: \"STORE\" }}
        accounts {{ LAB {{ jetstream: enabled, users: [{{ nkey: {} }}] }} }}",
        user.public_key()
    );
    let lan = Lan::with(1, &config);
    let seed = |name: &str, key: &KeyPair| {
        let file = lan.path(name);
        std::fs::write(&file, format!("{}\n", key.seed().expect("a seed"))).expect("written");
        path(&file).to_owned()
    };
    assert_works(&lan, &["--nkey", &seed("user.nk", &user)]);
    assert_refused(&lan, &["--nkey", &seed("stranger.nk", &stranger)], "refuses these credentials");
    std::fs::write(lan.path("nonsense.nk"), "nonsense").expect("written");
    assert_refused(&lan, &["--nkey", path(&lan.path("nonsense.nk"))], "--nkey");
}

/// What one key says of another, as NATS has it: a JWT signed with the first.
fn claim(by: &KeyPair, of: &KeyPair, name: &str, nats: &Value) -> String {
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": name, "iat": 1_600_000_000, "iss": by.public_key(), "name": name,
        "sub": of.public_key(), "nats": nats,
    });
    let parts = [head, body].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let said = parts.join(".");
    let signature = by.sign(said.as_bytes()).expect("a signature");
    format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_credentials_file_is_taken_as_nats_has_it() {
    if !lan::can_be() {
        return;
    }
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1,
        "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": limits });
    let mut of_system = of_account.clone();
    for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
        of_system["limits"][limit] = json!(0);
    }
    let config = format!(
        "jetstream {{ store_dir: \"STORE\" }}
        operator: {}
        system_account: {}
        resolver: MEMORY
        resolver_preload: {{ {}: {}, {}: {} }}",
        claim(&operator, &operator, "O", &json!({ "type": "operator", "version": 2 })),
        system.public_key(),
        system.public_key(),
        claim(&operator, &system, "SYS", &of_system),
        account.public_key(),
        claim(&operator, &account, "LAB", &of_account),
    );
    let lan = Lan::with(1, &config);
    let of_user = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let credentials = |name: &str, by: &KeyPair| {
        let jwt = claim(by, &user, "user", &of_user);
        let seed = user.seed().expect("a seed");
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let file = lan.path(name);
        std::fs::write(&file, text).expect("written");
        path(&file).to_owned()
    };
    assert_works(&lan, &["--creds", &credentials("lab.creds", &account)]);
    let stranger = KeyPair::new_account();
    let other = credentials("other.creds", &stranger);
    assert_refused(&lan, &["--creds", &other], "refuses these credentials");
    assert_refused(&lan, &["--creds", "/nowhere.creds"], "--creds /nowhere.creds");
}
