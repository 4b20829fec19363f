//! Who gets what of the control server: nobody anything that they have not proved to be theirs.

use std::fs;
use std::path::Path;

use outrider_tests::ads_client::AdsClient;
use outrider_tests::authority::{Authority, Credentials};
use outrider_tests::client::PATIENCE;
use outrider_tests::control::{Control, Wire};
use outrider_tests::mesh::DAY;
use tokio::time::timeout;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

/// Two workloads of one namespace, each with a local port for the other, and a service for both.
const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {name: client-1, namespace: shop}
spec: {address: 10.0.1.1, serviceAccount: client, upstreams: [{service: web, port: 80, bind: '127.0.0.1:9001'}]}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec: {address: 10.0.1.2, serviceAccount: web, service: web, ports: [{name: http, port: 80, appPort: 8080, protocol: HTTP}]}
";

fn endpoint(control: &Control, own: Option<(&[u8], &[u8])>) -> Endpoint {
    let roots = fs::read(control.state().join("ca.pem")).unwrap();
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)).domain_name("localhost");
    if let Some((chain, key)) = own {
        tls = tls.identity(Identity::from_pem(chain, key));
    }
    Endpoint::from_shared(format!("https://127.0.0.1:{}", control.port)).unwrap().tls_config(tls).unwrap()
}

/// What comes of a stream: the names of what is told, or why nothing is.
async fn told(mut client: AdsClient, endpoint: Endpoint, token: Option<&str>) -> Result<Vec<String>, Status> {
    let got = timeout(PATIENCE, async {
        client.connect_as(endpoint, token).await?;
        while !client.held.keys().any(|(kind, _)| kind.ends_with("Listener")) {
            client.next(true).await?;
        }
        Ok(client.held.into_keys().map(|(_, name)| name).collect())
    });
    got.await.expect("an answer in time")
}

fn svid(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    (fs::read(folder.join("tls.crt")).unwrap(), fs::read(folder.join("tls.key")).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gets_what_is_of_the_identity_that_it_has_proved() {
    let control = Control::start(Wire::Tls, MESH);
    let token = fs::read_to_string(control.token("client")).unwrap();
    let token = Some(token.trim());
    let (chain, key) = svid(&control.fetch_svid("client-1", "client"));
    let own = Some((&*chain, &*key));
    let upstream = "upstream|127.0.0.1:9001".to_owned();
    // By certificate, or with a token before there is one.
    for (endpoint, token) in [(endpoint(&control, own), None), (endpoint(&control, None), token)] {
        let names = told(AdsClient::new("a", "client-1"), endpoint, token).await.unwrap();
        assert!(names.contains(&upstream), "{names:?}");
    }
    // What is another workload's is not told, whatever somebody says to be.
    let names = told(AdsClient::new("a", "web-1"), endpoint(&control, own), None).await.unwrap();
    assert!(!names.iter().any(|name| name.starts_with("inbound|10.0.1.2")), "{names:?}");
    let mut elsewhere = AdsClient::new("a", "client-1");
    elsewhere.namespace = "bank".to_owned();
    let error = told(elsewhere, endpoint(&control, own), None).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message().contains("\"shop\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_proves_nothing_gets_nothing() {
    let control = Control::start(Wire::Tls, MESH);
    let client = || AdsClient::new("a", "client-1");
    let token = fs::read_to_string(control.token("client")).unwrap();
    let mut forged = token.trim().to_owned();
    let at = forged.len() - 10;
    let other = if forged.as_bytes()[at] == b'A' { "B" } else { "A" };
    forged.replace_range(at..=at, other);
    for (token, word) in [(None, "certificate"), (Some(&*forged), "token"), (Some("x"), "token")] {
        let error = told(client(), endpoint(&control, None), token).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
    // A certificate of an authority that only has the same name, and plaintext.
    let foreign = Authority::new("mesh.test").svid("spiffe://mesh.test/ns/shop/sa/client", DAY);
    let Credentials { chain_pem, key_pem, .. } = foreign;
    let own = Some((chain_pem.as_bytes(), key_pem.as_bytes()));
    assert!(told(client(), endpoint(&control, own), Some(token.trim())).await.is_err());
    let plaintext = Endpoint::from_shared(format!("http://127.0.0.1:{}", control.port)).unwrap();
    assert!(told(client(), plaintext, Some(token.trim())).await.is_err());
    assert_eq!(control.ask("/api/v1/proxies")["proxies"].as_array().unwrap().len(), 0);
    assert!(!control.log().contains(&forged), "tokens are not logged");
}
