//! Injection and audit with a real Kubernetes API server: our own manifests, our own rights, and pods that go through the
//! webhooks as those of a cluster do.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrider_control::inject::manifest;
use outrider_tests::authority::Authority;
use outrider_tests::control::{Control, Wire, control_binary};
use outrider_tests::kube::{Cluster, PATIENCE, assets};
use outrider_tests::process::free_port;
use serde_json::{Value, json};

const IMAGE: &str = "example.org/outrider-proxy:1";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const REGISTERED: &str = "/apis/admissionregistration.k8s.io/v1";
const INJECT: &str = "mutatingwebhookconfigurations/outrider-inject";
const AUDIT: &str = "validatingwebhookconfigurations/outrider-audit";

fn collection(object: &Value) -> String {
    let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let lower = kind.to_lowercase();
    let plural = lower.strip_suffix('y').map_or_else(|| format!("{lower}s"), |stem| format!("{stem}ies"));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

/// An address of this machine that endpoints may have: none of loopback.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent; it is only looked up which way it would go.
    socket.connect("192.0.2.1:9").expect("a network, for the API server to reach the webhook by");
    socket.local_addr().unwrap().ip()
}

/// Everything of `deploy/base`, in the order of its `kustomization.yaml`; the API server looks closely.
fn deploy(cluster: &Cluster) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let kustomization = manifest::parse(&read("kustomization.yaml")).unwrap();
    let mut count = 0;
    for file in kustomization["resources"].as_array().unwrap() {
        for document in manifest::documents(&read(file.as_str().unwrap())) {
            let object = manifest::parse(&document.text).unwrap();
            cluster.create(&format!("{}?fieldValidation=Strict", collection(&object)), &object);
            count += 1;
        }
    }
    count
}

/// A cluster with everything of ours in it, and a control server that its API server finds.
struct Mesh {
    cluster: Cluster,
    control: Control,
}

impl Mesh {
    fn start(assets: &Path, more: &[String]) -> Self {
        let cluster = Cluster::start(assets);
        assert!(deploy(&cluster) >= 18);
        let port = free_port();
        let metadata = json!({"name": "outrider-control-1", "namespace": "outrider-system",
            "labels": {"kubernetes.io/service-name": "outrider-control"}});
        cluster.create(
            "/apis/discovery.k8s.io/v1/namespaces/outrider-system/endpointslices",
            &json!({"metadata": metadata, "addressType": "IPv4",
                "ports": [{"name": "https-webhook", "port": port}],
                "endpoints": [{"addresses": [own_address()], "conditions": {"ready": true}}]}),
        );
        let labels = json!({"outrider.dev/inject": "enabled", "audit.outrider.dev/mode": "enforce"});
        cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop", "labels": labels}}));
        // Some of the shapes are of pods that an audit would refuse.
        let labels = json!({"outrider.dev/inject": "enabled"});
        cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "open", "labels": labels}}));
        cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "quiet"}}));
        let account = "/api/v1/namespaces/outrider-system/serviceaccounts/outrider-control/token";
        let token = cluster.create(account, &json!({"spec": {"expirationSeconds": 3600}}));
        let mut control = Control::stopped(Wire::Tls, "");
        control.kubeconfig = Some(cluster.kubeconfig("one", token["status"]["token"].as_str().unwrap()));
        control.more = vec![format!("--webhook-address=0.0.0.0:{port}"), format!("--sidecar-image={IMAGE}")];
        control.more.extend(more.iter().cloned());
        control.run();
        let mesh = Self { cluster, control };
        mesh.bundles(|_| true);
        // The API server takes a moment to ask by what was written.
        mesh.until("asked about pods", || mesh.create("shop", &plain()).is_ok_and(|pod| has_sidecar(&pod)));
        mesh
    }

    /// Waits until every webhook has roots, and such.
    fn bundles(&self, good: impl Fn(&str) -> bool) {
        for path in [INJECT, AUDIT] {
            self.cluster.wait(&format!("{REGISTERED}/{path}"), "with roots", |object| {
                object["webhooks"].as_array().is_some_and(|all| {
                    all.iter().all(|webhook| {
                        let bundle = webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default();
                        let roots = String::from_utf8(STANDARD.decode(bundle).unwrap()).unwrap();
                        !roots.is_empty() && good(&dense(&roots))
                    })
                })
            });
        }
    }

    /// A pod as it comes out, or why it does not.
    fn create(&self, namespace: &str, pod: &Value) -> Result<Value, (u16, String)> {
        self.post(&format!("/api/v1/namespaces/{namespace}/pods?fieldValidation=Strict"), pod)
    }

    fn post(&self, path: &str, object: &Value) -> Result<Value, (u16, String)> {
        let (code, answer) = self.cluster.request("POST", path, Some(object));
        if code == 201 { Ok(answer) } else { Err((code, answer["message"].to_string())) }
    }

    fn until(&self, what: &str, good: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !good() {
            let last = || self.create("shop", &plain());
            assert!(Instant::now() < end, "not {what}: {:?}\n{}", last(), self.control.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// `outrider` with these arguments.
    fn outrider(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(control_binary().with_file_name("outrider"));
        command.args(arguments).output().unwrap()
    }
}

fn plain() -> Value {
    with_account(json!({
        "metadata": {"generateName": "plain-"}, "spec": {"containers": [{"name": "main", "image": "x"}]},
    }))
}

/// A pod as the plugin for service accounts hands it on, before webhooks are asked; the API server of a test runs without
/// it, because nobody makes accounts there.
fn with_account(mut pod: Value) -> Value {
    if pod["spec"]["serviceAccountName"].is_null() {
        pod["spec"]["serviceAccountName"] = "default".into();
    }
    pod
}

fn has_sidecar(pod: &Value) -> bool {
    let containers = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array().cloned());
    containers.into_iter().flatten().flatten().any(|one| one["name"] == "outrider-proxy")
}

/// The pods of all shapes that there are golden files for, as their controllers would make them.
fn shapes() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-api/src/inject/golden/in");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        for document in manifest::documents(&fs::read_to_string(&path).unwrap()) {
            let value = manifest::parse(&document.text).unwrap();
            for (index, object) in manifest::objects(&value).into_iter().enumerate() {
                let Some(pod) = manifest::pointer(object).and_then(|at| object.pointer(at)) else { continue };
                let mut pod = pod.clone();
                let always =
                    ["Deployment", "StatefulSet", "DaemonSet"].contains(&object["kind"].as_str().unwrap());
                if !pod["metadata"].is_object() {
                    pod["metadata"] = json!({});
                }
                let metadata = pod["metadata"].as_object_mut().unwrap();
                metadata.remove("namespace");
                metadata.insert("name".to_owned(), format!("shape-{file}-{index}").into());
                if !always && object["kind"] != "Pod" && pod["spec"]["restartPolicy"].is_null() {
                    // A Job must say so, and its pods do.
                    pod["spec"]["restartPolicy"] = "Never".into();
                }
                (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
                all.push((file.clone(), with_account(pod)));
            }
        }
    }
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

/// What a pod is, without what the API server says of each one. What an injection notes to be undone is left out: to the
/// webhook a probe says `scheme: HTTP`, which is its default, and by hand it says nothing.
fn essence(pod: &Value) -> Value {
    let mut metadata =
        json!({"labels": pod["metadata"]["labels"], "annotations": pod["metadata"]["annotations"]});
    if let Some(annotations) = metadata["annotations"].as_object_mut() {
        annotations.remove("outrider.dev/status");
    }
    json!({"metadata": metadata, "spec": pod["spec"]})
}

fn all_shapes(mesh: &Mesh) {
    let roots = mesh.control.state().join("ca.pem");
    let (mut count, mut injected) = (0, 0);
    for (name, pod) in shapes() {
        let made = mesh.create("open", &pod).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        count += 1;
        injected += usize::from(has_sidecar(&made));
        // The same by hand, where no webhook is asked: the API server takes it, and it is the same pod.
        let file = mesh.control.folder.join("pod.json");
        fs::write(&file, pod.to_string()).unwrap();
        let (file, roots) = (file.to_str().unwrap(), roots.to_str().unwrap());
        let by_hand = mesh.outrider(&[
            "inject",
            "-f",
            file,
            "--roots",
            roots,
            "-n",
            "open",
            "--trust-domain",
            "mesh.test",
            "--sidecar-image",
            IMAGE,
        ]);
        assert!(by_hand.status.success(), "{name}: {}", String::from_utf8_lossy(&by_hand.stderr));
        let by_hand = manifest::parse(&String::from_utf8(by_hand.stdout).unwrap()).unwrap();
        let by_hand = mesh.create("quiet", &by_hand).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(essence(&made), essence(&by_hand), "{name}");
    }
    eprintln!("{count} pods of all shapes, {injected} of them with a sidecar");
    assert!(count >= 20 && injected >= 14, "{count} {injected}");
    // A dry run says the same and leaves nothing behind.
    let mut dry = plain();
    dry["metadata"] = json!({"name": "dry"});
    let answer = mesh.post(&format!("{PODS}?dryRun=All"), &dry).unwrap();
    assert!(has_sidecar(&answer));
    assert_eq!(mesh.cluster.request("GET", &format!("{PODS}/dry"), None).0, 404);
}

fn audited(mesh: &Mesh) {
    let mut bad = plain();
    bad["spec"]["hostPID"] = true.into();
    let (code, message) = mesh.create("shop", &bad).unwrap_err();
    assert!(code == 403 && message.contains("spec.hostPID: must not be true"), "{code}: {message}");
    assert!(mesh.create("quiet", &bad).is_ok(), "nobody asks there");
    // Containers for debugging: one that may do everything, and one that may not.
    let mut pod = plain();
    pod["metadata"] = json!({"name": "debugged"});
    assert!(has_sidecar(&mesh.create("shop", &pod).unwrap()));
    let debug = |name: &str, add: &[&str]| {
        let rights = json!({"capabilities": {"add": add}});
        let container = json!({"name": name, "image": "x", "securityContext": rights});
        let patch = json!({"spec": {"ephemeralContainers": [container]}});
        mesh.cluster.request("PATCH", &format!("{PODS}/debugged/ephemeralcontainers"), Some(&patch))
    };
    let (code, answer) = debug("everything", &["SYS_ADMIN"]);
    assert!(code == 403 && answer.to_string().contains("spec.ephemeralContainers[0]"), "{code}: {answer:#}");
    assert_eq!(debug("little", &["CHOWN"]).0, 200);
    // The same from outside: all pods of the cluster.
    let config = mesh.cluster.kubeconfig("admin", outrider_tests::kube::ADMIN);
    let config = config.to_str().unwrap();
    let output =
        mesh.outrider(&["audit", "--kube", "--kubeconfig", config, "--level", "baseline", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = report["findings"].as_array().unwrap();
    assert!(report["audited"].as_u64() > Some(40), "{}", report["audited"]);
    assert!(found.iter().any(|one| one["field"] == "spec.hostPID"), "{report:#}");
    let own = ["audit", "--kube", "--kubeconfig", config, "--namespace", "outrider-system"];
    let output = mesh.outrider(&own);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.starts_with("1 pods and templates, 0 of them"), "{said}");
    assert_eq!(mesh.outrider(&["audit", "--kube", "--kubeconfig", "/nowhere"]).status.code(), Some(2));
}

/// What `outrider policy network` prints, a real API server takes, closely looked at.
fn network_policies(mesh: &Mesh) {
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-api/src/segment/golden/mesh");
    let printed = mesh.outrider(&["policy", "network", objects.to_str().unwrap()]);
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    mesh.cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "edge"}}));
    let mut count = 0;
    for document in manifest::documents(&String::from_utf8(printed.stdout).unwrap()) {
        let object = manifest::parse(&document.text).unwrap();
        let path = collection(&object);
        let made = mesh.post(&format!("{path}?fieldValidation=Strict"), &object);
        let made = made.unwrap_or_else(|error| panic!("{object:#}: {error:?}"));
        assert_eq!(made["spec"], object["spec"], "nothing is added, and nothing is dropped");
        count += 1;
    }
    eprintln!("{count} network policies applied");
    assert!(count >= 10, "{count}");
}

fn nobody_answers(mesh: &mut Mesh) {
    mesh.control.kill();
    let (code, message) = mesh.create("shop", &plain()).unwrap_err();
    assert!(code == 500 && message.contains("failed calling webhook"), "{code}: {message}");
    assert!(mesh.create("quiet", &plain()).is_ok(), "others are not in its way");
    let own = mesh.create("outrider-system", &plain());
    assert!(
        !format!("{own:?}").contains("webhook"),
        "the control server's own pods never wait for it: {own:?}"
    );
    // Fail open: pods come, without a sidecar, until somebody answers.
    let open = mesh.outrider(&["webhooks", "--fail-open"]);
    for document in manifest::documents(&String::from_utf8(open.stdout).unwrap()) {
        let mut object = manifest::parse(&document.text).unwrap();
        let path = format!("{}/{}", collection(&object), object["metadata"]["name"].as_str().unwrap());
        let (_, before) = mesh.cluster.request("GET", &path, None);
        object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        let (code, answer) = mesh.cluster.request("PUT", &path, Some(&object));
        assert_eq!(code, 200, "{answer:#}");
    }
    mesh.until("open", || mesh.create("shop", &plain()).is_ok_and(|pod| !has_sidecar(&pod)));
    // These configurations had no roots: the control server brings them.
    mesh.control.run();
    mesh.bundles(|_| true);
    mesh.until("asked again", || mesh.create("shop", &plain()).is_ok_and(|pod| has_sidecar(&pod)));
}

#[test]
fn pods_come_out_as_they_should_and_wait_for_the_webhook_as_is_configured() {
    let Some(assets) = assets() else { return };
    let mut mesh = Mesh::start(&assets, &[]);
    all_shapes(&mesh);
    audited(&mesh);
    network_policies(&mesh);
    nobody_answers(&mut mesh);
}

/// PEM may be broken into lines in more than one way.
fn dense(pem: &str) -> String {
    pem.split_whitespace().collect()
}

fn root(authority: &Authority) -> String {
    dense(&authority.root_pem())
}

/// Certificate, key and roots of an authority that a control server issues with.
fn write_authority(folder: &Path, issuer: &Authority, roots: &[&Authority]) {
    let (certificate, key) = issuer.issuer_pem();
    let roots: String = roots.iter().map(|one| one.root_pem()).collect();
    for (name, text) in [("tls.crt", certificate), ("tls.key", key), ("ca.crt", roots)] {
        let next = folder.join(format!("{name}.next"));
        fs::write(&next, text).unwrap();
        fs::rename(next, folder.join(name)).unwrap();
    }
}

#[test]
fn while_certificate_and_authority_are_exchanged_no_pod_is_refused() {
    let Some(assets) = assets() else { return };
    let folder: PathBuf = outrider_tests::process::scratch("authority");
    let (old, new) = (Authority::new("mesh.test"), Authority::new("mesh.test"));
    write_authority(&folder, &old, &[&old]);
    let file = |name: &str| folder.join(name).display().to_string();
    let mesh = Mesh::start(
        &assets,
        &[
            format!("--ca-cert={}", file("tls.crt")),
            format!("--ca-key={}", file("tls.key")),
            format!("--ca-roots={}", file("ca.crt")),
        ],
    );
    let (done, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let pod = mesh.create("shop", &plain());
                    assert!(pod.as_ref().is_ok_and(has_sidecar), "{pod:?}");
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more = |count: usize| {
            let until = made.load(Ordering::Relaxed) + count;
            let end = Instant::now() + PATIENCE;
            while made.load(Ordering::Relaxed) < until && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            more(10);
            // The new root is told of, then it signs, then the old one goes.
            write_authority(&folder, &old, &[&old, &new]);
            mesh.bundles(|roots| roots.contains(&root(&new)) && roots.contains(&root(&old)));
            more(20);
            write_authority(&folder, &new, &[&old, &new]);
            mesh.until("served by the new one", || issuer_is(&mesh, &new));
            more(20);
            write_authority(&folder, &new, &[&new]);
            mesh.bundles(|roots| roots.contains(&root(&new)) && !roots.contains(&root(&old)));
            more(20);
        }));
        done.store(true, Ordering::Relaxed);
        assert!(finished.is_ok());
    });
    eprintln!("{} pods while the authority was exchanged, none refused", made.load(Ordering::Relaxed));
}

/// Whether the webhook's certificate verifies with this authority's root alone.
fn issuer_is(mesh: &Mesh, authority: &Authority) -> bool {
    let roots = mesh.control.folder.join("alone.pem");
    fs::write(&roots, authority.root_pem()).unwrap();
    let port: u16 = mesh.control.more[0].rsplit_once(':').unwrap().1.parse().unwrap();
    outrider_tests::admission::post(port, &roots, "/inject", "{}").0 == 400
}
