//! The images of `deploy/Dockerfile`, built as they stand (`scripts/image.sh`), and run by a real container runtime with the
//! rights that the webhook writes: set rules, then serve, locked in twice over.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use outrider_control::inject::{Outcome, Settings, Surroundings, inject, manifest};
use outrider_tests::authority::Authority;
use outrider_tests::process::scratch;
use serde_json::{Value, json};

/// How long a container may take to do something.
const PATIENCE: Duration = Duration::from_secs(40);
/// What the proxy serves in the container, where the webhook's start-up file would be.
const CONFIG: &str = "
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 15021}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config:
            virtual_hosts:
            - {name: web, domains: ['*'], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: served}}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
";

/// Where the images are; only `make test-image` has them.
fn images() -> Option<PathBuf> {
    let found = std::env::var_os("OUTRIDER_TEST_IMAGES").map(PathBuf::from);
    if found.is_none() {
        eprintln!("SKIPPED: there are no images; `make test-image` builds them");
    }
    found
}

/// A network namespace as that of a pod, and the containers in it; gone when dropped.
struct Pod {
    store: PathBuf,
    name: String,
    started: Vec<String>,
}

impl Pod {
    fn new(store: &Path, name: &str) -> Self {
        let name = format!("outrider-{name}-{}", std::process::id());
        let pod = Self { store: store.to_owned(), name, started: Vec::new() };
        assert!(pod.ip(&["netns", "add", &pod.name]).status.success(), "a network namespace");
        assert!(pod.ip(&["-n", &pod.name, "link", "set", "lo", "up"]).status.success());
        pod
    }

    fn ip(&self, arguments: &[&str]) -> Output {
        Command::new("ip").args(arguments).output().expect("ip")
    }

    /// A command of the machine in the pod's network.
    fn within(&self, arguments: &[&str]) -> String {
        let output = self.ip(&[&["netns", "exec", &self.name], arguments].concat());
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn podman(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("podman");
        for (option, folder) in [("--root", "root"), ("--runroot", "run")] {
            command.arg(option).arg(self.store.join(folder));
        }
        command.args(["--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        command.args(arguments).output().expect("podman")
    }

    /// Runs a container as one of a pod is run: with its arguments and its rights.
    fn run(&self, container: &Value, image: &str, options: &[&str]) -> Output {
        let network = format!("--network=ns:/run/netns/{}", self.name);
        let rights = rights(&container["securityContext"]);
        let mut all: Vec<&str> =
            vec!["run", &network, "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
        all.extend(rights.iter().map(String::as_str));
        all.extend(options);
        all.push(image);
        all.extend(container["args"].as_array().into_iter().flatten().map(|one| one.as_str().unwrap()));
        self.podman(&all)
    }

    /// Starts a container that stays, and returns the process on this machine that it is.
    fn start(&mut self, container: &Value, image: &str, options: &[&str]) -> u32 {
        let name = format!("{}-{}", self.name, self.started.len());
        let output = self.run(container, image, &[&["--detach", "--name", &name], options].concat());
        assert!(output.status.success(), "{output:?}");
        self.started.push(name.clone());
        let output = self.podman(&["inspect", "--format", "{{.State.Pid}}", &name]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim().parse().unwrap_or_else(|_| panic!("{text}: {}", self.log()))
    }

    fn log(&self) -> String {
        let logs = self.started.iter().map(|name| self.podman(&["logs", name]));
        logs.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).collect()
    }

    /// What an address answers from within, as soon as it does.
    fn answer(&self, url: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.within(&["curl", "-sS", "--max-time", "5", "-w", " %{http_code}", url]);
            if answer.ends_with(" 200") {
                return answer;
            }
            assert!(Instant::now() < end, "{url}: {answer}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for name in &self.started {
            self.podman(&["rm", "--force", "--time", "1", name]);
        }
        self.ip(&["netns", "delete", &self.name]);
    }
}

/// A `securityContext` as a kubelet hands it on to a container runtime. What is not understood ends the test.
fn rights(context: &Value) -> Vec<String> {
    let number = |name: &str| context[name].as_u64().unwrap_or_else(|| panic!("{name}: {context}"));
    let mut all = vec![format!("--user={}:{}", number("runAsUser"), number("runAsGroup"))];
    let known = [
        ("allowPrivilegeEscalation", json!(false)),
        ("readOnlyRootFilesystem", json!(true)),
        // The runtime's own profile, which it takes when none is named.
        ("seccompProfile", json!({"type": "RuntimeDefault"})),
    ];
    for (name, value) in known {
        assert_eq!(context[name], value, "{name}: {context}");
    }
    all.extend(
        ["--security-opt=no-new-privileges", "--read-only", "--read-only-tmpfs=false"].map(String::from),
    );
    for (list, option) in [("drop", "--cap-drop"), ("add", "--cap-add")] {
        let names = context["capabilities"][list].as_array().into_iter().flatten();
        all.extend(names.map(|name| format!("{option}={}", name.as_str().unwrap())));
    }
    all
}

/// The containers that the webhook writes: the one that sets rules, and the sidecar.
fn injected() -> (Value, Value) {
    let pod =
        json!({"metadata": {"generateName": "a-"}, "spec": {"containers": [{"name": "main", "image": "x"}]}});
    let around = Surroundings { unless_said: true, ..Surroundings::default() };
    let roots = "-----BEGIN CERTIFICATE-----\n";
    let settings = Settings::new("outrider-proxy:test", ("control", 15012), roots);
    let Ok(Outcome::Injected(injected)) = inject(&pod, &around, &settings) else { panic!("no sidecar") };
    let containers = injected.pod["spec"]["initContainers"].as_array().unwrap().clone();
    let one = |name: &str| containers.iter().find(|one| one["name"] == name).unwrap().clone();
    (one("outrider-redirect"), one("outrider-proxy"))
}

/// A field of a process's status.
fn field(process: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("{name}: {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Nobody's rights, a root filesystem that cannot be written, and so many seccomp filters at least.
fn assert_locked(process: u32, id: u32, filters: u32) {
    for name in ["Uid", "Gid"] {
        assert_eq!(field(process, name), [id; 4].map(|id| id.to_string()).join(" "), "{name}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(process, set), "0000000000000000", "{set}");
    }
    assert_eq!((field(process, "NoNewPrivs"), field(process, "Seccomp")), ("1".into(), "2".into()));
    assert!(
        field(process, "Seccomp_filters").parse::<u32>().unwrap() >= filters,
        "the runtime's and our own"
    );
    let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro"), "{root}");
}

#[test]
fn the_proxys_image_sets_rules_and_serves_with_the_rights_that_the_webhook_writes() {
    let Some(store) = images() else { return };
    let image = "localhost/outrider-proxy:test";
    let mut pod = Pod::new(&store, "image");
    let (mut redirect, sidecar) = injected();

    // Rules: with the one capability that the webhook gives, and not without it.
    let done = pod.run(&redirect, image, &["--rm"]);
    assert!(done.status.success(), "{done:?}");
    let rules = pod.within(&["nft", "list", "table", "inet", "outrider"]);
    assert!(rules.contains("15001") && rules.contains("15006"), "{rules}");
    redirect["securityContext"]["capabilities"].as_object_mut().unwrap().remove("add");
    let refused = pod.run(&redirect, image, &["--rm"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");

    // The sidecar.
    let folder = scratch("image");
    fs::write(folder.join("outrider.yaml"), CONFIG).unwrap();
    let volume = format!("--volume={}:/etc/outrider:ro", folder.display());
    let process = pod.start(&sidecar, image, &[&volume]);
    assert_eq!(pod.answer("http://127.0.0.1:15021/"), "served 200");
    assert_locked(process, 1502, 2);
    let info = pod.answer("http://127.0.0.1:15000/server_info");
    let info: Value = serde_json::from_str(info.trim_end_matches(" 200")).unwrap();
    assert_eq!(info["lock_in"]["level"], "enforce");
    for layer in ["no_new_privs", "capabilities", "core_dumps", "landlock", "seccomp"] {
        assert_eq!(info["lock_in"]["layers"][layer]["state"], "held", "{info}");
    }
    // What an intruder would try, with the image's own binary, in the image.
    let mut attempts = sidecar.clone();
    attempts["args"] = json!(["check-lock-in", "--config", "/etc/outrider/outrider.yaml"]);
    let tried = pod.run(&attempts, image, &["--rm", &volume]);
    let text = String::from_utf8_lossy(&tried.stdout);
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert!(lines.len() > 30, "{tried:?}");
    for line in lines {
        // What is not in the image, or not in the container's list of processes, cannot even be refused.
        let nothing_there = match line.split("  ").next() {
            Some("read /etc/shadow" | "read /proc/PID/environ") => "No such file or directory",
            Some("create a file") => "Read-only file system",
            _ => "refused: ",
        };
        let refused = line.matches("refused: ").count().max(line.matches(nothing_there).count());
        assert_eq!(refused, 2, "{line}");
    }
    // The end of a pod.
    let name = pod.started[0].clone();
    assert!(pod.podman(&["stop", "--time", "30", &name]).status.success());
    let code = pod.podman(&["inspect", "--format", "{{.State.ExitCode}}", &name]).stdout;
    assert_eq!(String::from_utf8(code).unwrap().trim(), "0", "{}", pod.log());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_control_servers_image_serves_with_the_rights_of_its_manifest() {
    let Some(store) = images() else { return };
    let image = "localhost/outrider-control:test";
    let mut pod = Pod::new(&store, "control");
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/control.yaml");
    let manifests = fs::read_to_string(manifests).unwrap();
    let documents = manifest::documents(&manifests);
    let all = documents.iter().map(|one| manifest::parse(&one.text).unwrap());
    let deployment = all.into_iter().find(|one| one["kind"] == "Deployment").unwrap();
    let spec = &deployment["spec"]["template"]["spec"];
    let mut container = spec["containers"][0].clone();
    for name in ["runAsUser", "runAsGroup", "seccompProfile"] {
        container["securityContext"][name] = spec["securityContext"][name].clone();
    }
    // As it stands there, but for the Kubernetes API, which is not here.
    for argument in container["args"].as_array_mut().unwrap() {
        if *argument == "--kubernetes" {
            *argument = "--config-dir=/mesh".into();
        }
    }
    let folder = scratch("image-control");
    let make = |name: &str, mode: u32| {
        let path = folder.join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, None, Some(1504)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    // An `emptyDir`, and a `Secret` with `defaultMode: 0440`, under `fsGroup`.
    let (mesh, state, secret) = (make("mesh", 0o755), make("state", 0o2777), make("ca", 0o2755));
    let authority = Authority::new("cluster.local");
    let (certificate, key) = authority.issuer_pem();
    for (name, text) in [("tls.crt", certificate), ("tls.key", key), ("ca.crt", authority.root_pem())] {
        let path = secret.join(name);
        fs::write(&path, text).unwrap();
        chown(&path, None, Some(1504)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o440)).unwrap();
    }
    let volumes = [(mesh, "/mesh:ro"), (state, "/var/lib/outrider"), (secret, "/etc/outrider/ca:ro")];
    let volumes = volumes.map(|(folder, at)| format!("--volume={}:{at}", folder.display()));
    let process = pod.start(&container, image, &volumes.each_ref().map(String::as_str));
    pod.answer("http://127.0.0.1:15080/readyz");
    assert_locked(process, 1504, 1);

    // The operator's command is in it, too.
    container["args"] = json!(["crds"]);
    let crds = pod.run(&container, image, &["--rm", "--entrypoint=/usr/bin/outrider"]);
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/crds.yaml");
    assert!(crds.stdout == fs::read(expected).unwrap(), "{}", String::from_utf8_lossy(&crds.stderr));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_images_are_small_and_nothing_in_them_helps_an_intruder() {
    let Some(store) = images() else { return };
    let mut pod = Pod::new(&store, "files");
    for (image, max_mib) in [("proxy", 80), ("control", 120)] {
        let name = format!("{}-{image}", pod.name);
        let made = pod.podman(&["create", "--name", &name, &format!("localhost/outrider-{image}:test")]);
        assert!(made.status.success(), "{made:?}");
        pod.started.push(name.clone());
        let mounted = String::from_utf8(pod.podman(&["mount", &name]).stdout).unwrap();
        let root = mounted.trim();
        let found = |tests: &[&str]| {
            let output = Command::new("find").arg(root).args(tests).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(found(&["-type", "f", "-perm", "/6000"]), "", "{image}: files that change the user");
        assert_eq!(found(&["-type", "f", "-perm", "-o+w"]), "", "{image}: files that everybody may write");
        for program in
            ["sh", "bash", "dash", "busybox", "perl", "python3", "apt", "dpkg", "curl", "mount", "su"]
        {
            let programs =
                found(&["(", "-type", "f", "-o", "-type", "l", ")", "-path", &format!("*/*bin/{program}")]);
            assert_eq!(programs, "", "{image}");
        }
        let parts = format!("{root}/usr/share/doc/outrider/outrider-{image}.cdx.json");
        let parts: Value = serde_json::from_str(&fs::read_to_string(parts).unwrap()).unwrap();
        assert_eq!(parts["bomFormat"], "CycloneDX");
        assert!(Path::new(root).join("usr/share/doc/outrider/LICENSE").exists());
        let size = Command::new("du").args(["-sm", root]).output().unwrap().stdout;
        let size: u32 = String::from_utf8(size).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        eprintln!("{image}: {size} MiB");
        assert!(size < max_mib, "{image}: {size} MiB");
        pod.podman(&["umount", &name]);
    }
}
