use super::*;

/// A directory that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("outrider-files-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn workload(name: &str, address: &str) -> String {
    format!(
        "apiVersion: mesh.outrider.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}}}\nspec: {{address: {address}}}\n---\n"
    )
}

fn addresses(view: &View) -> Vec<String> {
    view.objects.workloads.values().map(|one| format!("{}={}", one.meta.name, one.spec.address)).collect()
}

#[test]
fn a_bad_object_hides_no_other_and_keeps_its_last_good_version() {
    let folder = Folder::new("bad-object");
    folder.write("a.yaml", &(workload("a", "10.0.0.1") + &workload("b", "10.0.0.2")));
    folder.write("sub/c.yml", &workload("c", "10.0.0.3"));
    let mut directory = Directory::new(&folder.0);
    let view = directory.scan().unwrap();
    assert_eq!(addresses(&view), ["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.3"]);
    assert!(view.diagnostics.is_empty());

    folder.write("a.yaml", &(workload("a", "10.0.0.300") + &workload("b", "10.0.0.22")));
    let view = directory.scan().unwrap();
    assert_eq!(addresses(&view), ["a=10.0.0.1", "b=10.0.0.22", "c=10.0.0.3"]);
    assert_eq!(view.diagnostics.len(), 1);
    let shown = view.diagnostics[0].to_string();
    assert!(
        shown.starts_with("a.yaml:1: error: Workload/default/a: spec.address: ")
            && view.diagnostics[0].in_force == InForce::LastGood,
        "{shown}"
    );

    folder.write("a.yaml", &workload("b", "10.0.0.22"));
    assert_eq!(addresses(&directory.scan().unwrap()), ["b=10.0.0.22", "c=10.0.0.3"]);
}

#[test]
fn a_file_that_cannot_be_parsed_deletes_nothing() {
    let folder = Folder::new("bad-file");
    folder.write("a.yaml", &(workload("a", "10.0.0.1") + &workload("b", "10.0.0.2")));
    let mut directory = Directory::new(&folder.0);
    directory.scan().unwrap();
    folder.write("a.yaml", &("{{{\n---\n".to_owned() + &workload("b", "10.0.0.22")));
    let view = directory.scan().unwrap();
    assert_eq!(addresses(&view), ["a=10.0.0.1", "b=10.0.0.22"]);
    assert!(
        view.diagnostics[0].in_force == InForce::LastGood && view.diagnostics[0].rule == "unreadable",
        "{:?}",
        view.diagnostics
    );
    // The kept version is still there when it is looked at once more, and goes when the file is good again.
    assert_eq!(addresses(&directory.scan().unwrap()).len(), 2);
    folder.write("a.yaml", &workload("b", "10.0.0.22"));
    assert_eq!(addresses(&directory.scan().unwrap()), ["b=10.0.0.22"]);
}

#[test]
fn a_file_that_is_not_text_and_a_folder_that_is_gone_delete_nothing() {
    let folder = Folder::new("gone");
    folder.write("a.yaml", &workload("a", "10.0.0.1"));
    let mut directory = Directory::new(&folder.0);
    directory.scan().unwrap();
    fs::write(folder.0.join("a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    assert_eq!(addresses(&directory.scan().unwrap()), ["a=10.0.0.1"]);
    fs::remove_dir_all(&folder.0).unwrap();
    assert!(directory.scan().is_err() && directory.changed());
    let view = directory.settled();
    assert_eq!((addresses(&view), view.complete), (vec!["a=10.0.0.1".to_owned()], true));
    assert!(view.diagnostics[0].to_string().contains("the directory cannot be read"));
}

#[test]
fn of_two_objects_with_one_name_the_first_counts() {
    let folder = Folder::new("duplicate");
    folder.write("a.yaml", &workload("a", "10.0.0.1"));
    folder.write("b.yaml", &workload("a", "10.0.0.2"));
    let view = Directory::new(&folder.0).scan().unwrap();
    assert_eq!(addresses(&view), ["a=10.0.0.1"]);
    assert_eq!(view.diagnostics[0].rule, "duplicate");
    assert_eq!(&*view.diagnostics[0].place.file, "b.yaml");
}

#[test]
fn a_swapped_link_is_a_change() {
    let folder = Folder::new("link");
    folder.write("..v1/a.yaml", &workload("a", "10.0.0.1"));
    folder.write("..v2/a.yaml", &workload("a", "10.0.0.2"));
    std::os::unix::fs::symlink("..v1", folder.0.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", folder.0.join("a.yaml")).unwrap();
    let mut directory = Directory::new(&folder.0);
    assert_eq!(addresses(&directory.scan().unwrap()), ["a=10.0.0.1"]);
    std::os::unix::fs::symlink("..v2", folder.0.join("..new")).unwrap();
    fs::rename(folder.0.join("..new"), folder.0.join("..data")).unwrap();
    assert!(directory.changed());
    assert_eq!(addresses(&directory.scan().unwrap()), ["a=10.0.0.2"]);
}

#[tokio::test]
async fn a_change_reaches_who_watches() {
    let folder = Folder::new("watch");
    folder.write("a.yaml", &workload("a", "10.0.0.1"));
    let (mut views, task) = watch(&folder.0, Duration::from_millis(5)).await.unwrap();
    assert_eq!(addresses(&views.borrow_and_update()), ["a=10.0.0.1"]);
    folder.write("b.yaml", &workload("b", "10.0.0.2"));
    tokio::time::timeout(Duration::from_secs(10), views.changed()).await.unwrap().unwrap();
    assert_eq!(addresses(&views.borrow_and_update()), ["a=10.0.0.1", "b=10.0.0.2"]);
    drop(views);
    tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
}

#[test]
fn what_cannot_all_be_seen_is_not_taken_for_empty() {
    let folder = Folder::new("too-many");
    folder.write("a.yaml", &workload("a", "10.0.0.1"));
    let mut directory = Directory::new(&folder.0);
    directory.scan().unwrap();
    for number in 0..=MAX_FILES {
        fs::write(folder.0.join(format!("f{number}.yaml")), "").unwrap();
    }
    let error = Directory::new(&folder.0).scan().unwrap_err().to_string();
    assert!(error.contains("more than 20000 files"), "{error}");
    let view = directory.settled();
    assert_eq!(addresses(&view), ["a=10.0.0.1"]);
    assert!(view.diagnostics[0].to_string().contains("more than 20000 files"), "{:?}", view.diagnostics);
}

#[tokio::test]
async fn a_start_wants_everything_read_that_may_be_a_policy() {
    let folder = Folder::new("start");
    let refused = async || watch(&folder.0, INTERVAL).await.unwrap_err().to_string();
    folder.write("a.yaml", &(workload("a", "10.0.0.1") + "{{{\n"));
    let (view, _) = watch(&folder.0, INTERVAL).await.unwrap();
    assert_eq!(addresses(&view.borrow()), ["a=10.0.0.1"], "no file hides another, nor a document");
    assert_eq!(view.borrow().diagnostics.len(), 1);
    folder.write("a.yaml", &(workload("a", "10.0.0.1") + "{{{\n---\nkind: AuthorizationPolicy\n"));
    let error = refused().await;
    assert!(
        error.starts_with("a.yaml:6: not valid YAML: ") && error.ends_with("would be missing"),
        "{error}"
    );
    fs::write(folder.0.join("a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    assert!(refused().await.starts_with("a.yaml:0: cannot be read: "));
    // An object that is bad is one that is known.
    folder.write("a.yaml", &(workload("a", "10.0.0.1") + &workload("b", "10.0.0.300")));
    let (view, _) = watch(&folder.0, INTERVAL).await.unwrap();
    assert_eq!(addresses(&view.borrow()), ["a=10.0.0.1"]);
    fs::remove_dir_all(&folder.0).unwrap();
    let error = refused().await;
    assert!(error.contains("outrider-files-start-"), "names the directory: {error}");
}

/// Policies by name, with what they select.
fn policies(view: &View) -> Vec<String> {
    let all = view.objects.authorization.values();
    all.map(|one| {
        let labels = one.spec.selector.as_ref().map(|selector| &selector.match_labels);
        format!("{} {:?} {:?}", one.meta.name, one.spec.action, labels)
    })
    .collect()
}

#[test]
fn a_policy_that_was_never_good_denies_everything_until_it_is() {
    let policy = |label: &str, rules: &str| {
        format!(
            "{{apiVersion: mesh.outrider.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: p}}, \
             spec: {{selector: {{matchLabels: {{app: {label}}}}}, rules: {rules}}}}}"
        )
    };
    let folder = Folder::new("policy");
    let mut directory = Directory::new(&folder.0);
    for label in ["a", "b"] {
        folder.write("a.yaml", &policy(label, "[{form: []}]"));
        for _ in 0..2 {
            let view = directory.scan().unwrap();
            assert_eq!(policies(&view), [format!("p Deny Some({{\"app\": \"{label}\"}})")]);
            let one = &view.diagnostics[0];
            assert_eq!((one.in_force, one.rule, view.denials), (InForce::Denial, "invalid-object", 1));
            assert!(
                one.to_string().ends_with("(until it is good, everything is denied that it may be about)")
            );
        }
    }
    // From its first good version on that one is kept.
    folder.write("a.yaml", &policy("c", "[{}]"));
    let view = directory.scan().unwrap();
    assert_eq!((policies(&view), view.denials), (vec!["p Allow Some({\"app\": \"c\"})".to_owned()], 0));
    folder.write("a.yaml", &policy("d", "[{form: []}]"));
    let view = directory.scan().unwrap();
    assert_eq!((policies(&view), view.denials), (vec!["p Allow Some({\"app\": \"c\"})".to_owned()], 0));
    assert_eq!(view.diagnostics[0].in_force, InForce::LastGood);
    // A good document of its name elsewhere is the one that counts.
    folder.write("b.yaml", &policy("e", "[{}]"));
    assert_eq!(policies(&directory.scan().unwrap()), ["p Allow Some({\"app\": \"e\"})"]);
    folder.write("a.yaml", "");
    folder.write("b.yaml", "");
    assert_eq!(policies(&directory.scan().unwrap()), Vec::<String>::new());
    // One without a name denies as well, beside what is good in its file.
    let nameless = policy("f", "[{}]").replace("{name: p}", "{}");
    folder.write("b.yaml", &(workload("w", "10.0.0.1") + &nameless));
    let view = directory.scan().unwrap();
    assert_eq!(policies(&view), ["policy-without-a-good-name Deny None"]);
    assert_eq!((addresses(&view).len(), view.diagnostics[0].in_force), (1, InForce::Denial));
}

/// What a pipe's reader waits for never comes. (It would be the watcher that waits, or the start.)
#[test]
fn what_is_no_file_is_said_and_not_read() {
    let folder = Folder::new("no-file");
    folder.write("a.yaml", &workload("a", "10.0.0.1"));
    let made = std::process::Command::new("mkfifo").arg(folder.0.join("pipe.yaml")).status().unwrap();
    assert!(made.success());
    std::os::unix::fs::symlink("/dev/zero", folder.0.join("zero.yaml")).unwrap();
    let view = Directory::new(&folder.0).scan().unwrap();
    assert_eq!(addresses(&view), ["a=10.0.0.1"]);
    let said: Vec<_> = view.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2);
    assert!(said.iter().all(|one| one.contains("is not a file")), "{said:?}");
}

#[test]
fn a_link_to_where_it_stands_is_gone_through_once() {
    let folder = Folder::new("loop");
    folder.write("a.yaml", &workload("a", "10.0.0.1"));
    folder.write("sub/b.yaml", &workload("b", "10.0.0.2"));
    std::os::unix::fs::symlink(".", folder.0.join("loop")).unwrap();
    std::os::unix::fs::symlink("..", folder.0.join("sub/back")).unwrap();
    let view = Directory::new(&folder.0).scan().unwrap();
    assert_eq!(addresses(&view), ["a=10.0.0.1", "b=10.0.0.2"]);
    assert!(view.diagnostics.is_empty(), "{:?}", view.diagnostics);
}
