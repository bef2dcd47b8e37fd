//! Tests of the files in `configs/deploy`: each can be parsed, and each flag, metric and file that it names exists.

mod command_lines;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use hiend_trainer::distributed::{Launcher, Master, World};
use serde_json::Value;

use self::command_lines::{Call, calls};

/// Dockerfiles in `configs/release`.
const DOCKERFILES: [&str; 2] = ["Dockerfile", "Dockerfile.cuda"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

/// Files of a folder under `configs` with one of these extensions, by name.
fn files(folder_name: &str, extensions: &[&str]) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder().join(folder_name)).unwrap().map(|entry| entry.unwrap().path());
    let wanted = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        extensions.contains(&extension)
    };
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    entries.filter(wanted).map(read).collect()
}

/// Long flags of a program and of its subcommands, by the subcommand's words.
fn flags_of(program: &str) -> BTreeMap<String, BTreeSet<String>> {
    use clap::CommandFactory as _;
    let command = match program {
        "hiend-shard" => hiend_loader::commands::shard_command(),
        "hiend-serve" => hiend_loader::commands::serve_command(),
        "hiend-train" => hiend_trainer::cli::Cli::command(),
        _ => panic!("no program {program}"),
    };
    let long = |command: &clap::Command| {
        let flags = command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned);
        flags.chain(["help".to_owned(), "version".to_owned()]).collect()
    };
    let mut flags = BTreeMap::from([(String::new(), long(&command))]);
    flags.extend(command.get_subcommands().map(|command| (command.get_name().to_owned(), long(command))));
    flags
}

fn check_flags(file: &str, calls: &[Call]) {
    for call in calls {
        let known = flags_of(&call.program);
        let subcommand = call.words.first().filter(|word| known.contains_key(word.as_str()));
        let known = &known[subcommand.map_or("", String::as_str)];
        for flag in call.flags() {
            assert!(known.contains(flag), "{file}: {} has no --{flag}", call.program);
        }
    }
}

#[test]
fn calls_of_the_programs_use_flags_that_exist() {
    let mut programs = BTreeSet::new();
    for (name, text) in files("deploy", &["py", "sh", "service", "yaml"]) {
        let mut found = calls(&text);
        if Path::new(&name).extension().is_some_and(|extension| extension == "yaml") {
            found.extend(yaml::documents(&text).unwrap().iter().flat_map(containers).filter_map(call_of));
        }
        check_flags(&name, &found);
        assert!(!found.is_empty(), "{name} calls no program");
        programs.extend(found.into_iter().map(|call| call.program));
    }
    assert_eq!(programs.into_iter().collect::<Vec<_>>(), ["hiend-serve", "hiend-shard", "hiend-train"]);
}

/// Specifications of the pods that a Kubernetes object creates; for a `JobSet`, those of its jobs.
fn pods(document: &Value) -> Vec<&Value> {
    let of_jobs = document["spec"]["replicatedJobs"].as_array().into_iter().flatten().map(|job| &job["template"]);
    let objects = std::iter::once(document).chain(of_jobs);
    objects.map(|object| &object["spec"]["template"]["spec"]).filter(|spec| spec.is_object()).collect()
}

/// All containers of a Kubernetes object.
fn containers(document: &Value) -> Vec<&Value> {
    pods(document).into_iter().flat_map(containers_of).collect()
}

/// Containers of a pod.
fn containers_of(pod: &Value) -> Vec<&Value> {
    pod["containers"].as_array().map(|containers| containers.iter().collect()).unwrap_or_default()
}

/// Words of a container's command line.
fn words_of(container: &Value) -> Vec<&str> {
    let words = ["command", "args"].into_iter().filter_map(|key| container[key].as_array()).flatten();
    words.map(|word| word.as_str().unwrap()).collect()
}

/// Value of a flag that is given as `--flag=value`.
fn value<'a>(words: &[&'a str], flag: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(flag)?.strip_prefix('='))
}

/// Calls `visit` for the pods in all Kubernetes files, with the names of the files.
fn all_pods(visit: impl Fn(&str, &Value)) {
    let mut num_pods = 0;
    for (name, text) in files("deploy", &["yaml"]) {
        for document in yaml::documents(&text).unwrap() {
            for pod in pods(&document) {
                visit(&name, pod);
                num_pods += 1;
            }
        }
    }
    assert!(num_pods >= 5, "{num_pods} pods");
}

/// Text of a Dockerfile of this project.
fn dockerfile(name: &str) -> String {
    std::fs::read_to_string(folder().join("release").join(name)).unwrap()
}

#[test]
fn pods_run_images_that_are_built_as_a_user_who_may_write() {
    let mut built = BTreeSet::new();
    for name in DOCKERFILES {
        let text = dockerfile(name);
        let tags = text.lines().filter_map(|line| line.split_once(" -t ")?.1.split(' ').next());
        built.extend(tags.map(str::to_owned));
        assert!(text.contains("USER 65532:65532"), "{name}");
    }
    all_pods(|file, pod| {
        // Secrets and volumes belong to root unless the pod names a group.
        for key in ["runAsUser", "fsGroup"] {
            assert_eq!(pod["securityContext"][key], 65532, "{file}: {key}");
        }
        for container in containers_of(pod) {
            let image = container["image"].as_str().unwrap_or_default();
            assert!(built.contains(image), "{file}: image {image}; built are {built:?}");
        }
    });
}

#[test]
fn servers_on_kubernetes_have_threads_within_their_limits_and_no_flag_that_is_refused() {
    all_pods(|file, pod| {
        for container in containers_of(pod) {
            let words = words_of(container);
            if words[0] != "hiend-serve" {
                continue;
            }
            assert_eq!(value(&words, "--threads"), container["resources"]["requests"]["cpu"].as_str(), "{file}");
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{file}");
            let is_folder = !value(&words, "--shards").unwrap().contains("://");
            assert_eq!(value(&words, "--disk-cache").is_none(), is_folder, "{file}");
        }
    });
}

#[test]
fn the_manifest_of_servers_has_a_writable_disk_cache_once_the_lines_for_object_storage_are_used() {
    let (_, text) = files("deploy", &["yaml"]).into_iter().find(|(name, _)| name == "serve-kubernetes.yaml").unwrap();
    let uncommented = |line: &str| match line.split_once("# - ") {
        Some((indent, item)) if !indent.is_empty() && indent.trim().is_empty() => format!("{indent}- {item}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = text.lines().map(uncommented).collect();
    let documents = yaml::documents(&text).unwrap();
    let pod = documents.iter().flat_map(pods).find(|pod| words_of(containers_of(pod)[0])[0] == "hiend-serve").unwrap();
    let container = containers_of(pod)[0];
    let folder = value(&words_of(container), "--disk-cache").expect("a folder, as the root is read-only");
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    let mount = mounts.filter(|mount| mount["readOnly"] != true).find(|mount| mount["mountPath"] == folder);
    let name = &mount.expect("a writable folder")["name"];
    let volume = pod["volumes"].as_array().into_iter().flatten().find(|volume| volume["name"] == *name);
    assert_eq!(volume.unwrap()["emptyDir"]["sizeLimit"], "55Gi");
}

#[test]
fn certificates_are_asked_for_in_the_names_that_clients_use() {
    let mut num_servers = 0;
    for (file, text) in files("deploy", &["yaml"]) {
        let comments: String = text.lines().filter(|line| line.starts_with('#')).collect();
        for document in yaml::documents(&text).unwrap() {
            for container in containers(&document) {
                let urls = words_of(container).into_iter().find_map(|word| word.strip_prefix("--loader="));
                for url in urls.into_iter().flat_map(|urls| urls.split(',')) {
                    let host = url.strip_prefix("https://").and_then(|rest| rest.split(':').next()).unwrap();
                    assert!(comments.contains(host), "{file}: {host}");
                    num_servers += 1;
                }
            }
        }
        // Clients refuse a wildcard in front of a single label.
        assert!(!comments.contains("*.hiend-serve"), "{file}");
    }
    assert_eq!(num_servers, 2);
}

/// Call made by a container that runs one of the programs directly.
fn call_of(container: &Value) -> Option<Call> {
    let mut words = words_of(container).into_iter().map(str::to_owned);
    let program = words.next().filter(|program| program.starts_with("hiend-"))?;
    Some(Call { program, words: words.collect() })
}

#[test]
fn kubernetes_objects_are_complete() {
    for (name, text) in files("deploy", &["yaml"]) {
        for document in yaml::documents(&text).unwrap() {
            for path in ["/apiVersion", "/kind", "/metadata/name", "/spec"] {
                assert!(document.pointer(path).is_some(), "{name}: no {path} in {document}");
            }
            let names = |list: &Value, key: &str| -> BTreeSet<String> {
                let items = list.as_array().into_iter().flatten();
                items.map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect()
            };
            let of_pod = |pod| containers_of(pod).into_iter().map(move |container| (pod, container));
            for (pod, container) in pods(&document).into_iter().flat_map(of_pod) {
                let volumes = names(&pod["volumes"], "name");
                assert!(container["image"].is_string(), "{name}: {container}");
                let mounted = names(&container["volumeMounts"], "name");
                assert_eq!(mounted, volumes, "{name}: volumes mounted and defined");
                let ports = names(&container["ports"], "name");
                for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                    if let Some(port) = container[probe]["httpGet"]["port"].as_str() {
                        assert!(ports.contains(port), "{name}: {probe} of port {port}");
                        assert_eq!(container[probe]["httpGet"]["path"], "/healthz", "{name}");
                    }
                }
            }
            // The selector of a Deployment finds its own pods.
            let wanted = &document["spec"]["selector"]["matchLabels"];
            if wanted.is_object() {
                assert_eq!(*wanted, document["spec"]["template"]["metadata"]["labels"], "{name}");
            }
        }
    }
}

#[test]
fn shell_scripts_parse() {
    let deploy = files("deploy", &["sh"]).into_keys().map(|name| folder().join("deploy").join(name));
    let release = ["build", "check"].map(|name| folder().join("release").join(name));
    for script in deploy.chain(release) {
        let status = Command::new("bash").arg("-n").arg(&script).status().unwrap();
        assert!(status.success(), "{}", script.display());
    }
}

/// Program in Python that prints the variables of a rank, as the function `environment` of a script makes them. The
/// script is parsed but not run, because there may be no Ray to import.
const VARIABLES: &str = "
import ast, json, sys
script = ast.parse(open(sys.argv[1]).read())
made = next(part for part in script.body if getattr(part, 'name', None) == 'environment')
exec(compile(ast.Module([made], []), sys.argv[1], 'exec'))
print(json.dumps(environment(3, 4, 'node1', 29400, 'secret')))
";

#[test]
fn ranks_that_ray_starts_find_each_other() {
    let python = std::env::var_os("HIEND_PYTHON").unwrap_or_else(|| "python3".into());
    let script = folder().join("deploy/train-ray.py");
    let Ok(output) = Command::new(&python).args(["-c", VARIABLES]).arg(script).output() else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "there is no {} (set HIEND_PYTHON)", python.display());
        println!("Ray: NOT tried, there is no {} (set HIEND_PYTHON)", python.display());
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let variables: Value = serde_json::from_slice(&output.stdout).unwrap();
    let world = World::find(Launcher::Auto, &|name| Some(variables[name].as_str()?.to_owned())).unwrap().unwrap();
    assert_eq!((world.rank, world.num_ranks, world.local_rank, world.num_sharing), (3, 4, 0, 1));
    assert!(matches!(&world.master, Master::Address { host, port: 29_400 } if host == "node1"), "{:?}", world.master);
    assert_eq!(variables["HIEND_TOKEN"], "secret");
}

#[test]
fn programs_that_slurm_starts_get_the_cores_of_their_task() {
    let mut num_calls = 0;
    for (name, text) in files("deploy", &["sh"]).into_iter().filter(|(_, text)| text.contains("#SBATCH")) {
        let joined = text.replace("\\\n", " ");
        let commands = joined.lines().map(|line| line.strip_prefix("exec ").unwrap_or(line));
        for command in commands.filter(|command| command.starts_with("srun ")) {
            assert!(text.contains("#SBATCH --cpus-per-task="), "{name}: no number of cores");
            // As of Slurm 22.05, srun does not take the number from the job.
            let (flags, _) = command.split_once(" hiend-").unwrap();
            assert!(flags.contains("--cpus-per-task=\"$SLURM_CPUS_PER_TASK\""), "{name}: {command}");
            num_calls += 1;
        }
    }
    assert_eq!(num_calls, 5);
}

#[test]
fn systemd_units_have_known_sections_and_whole_lines() {
    for (name, text) in files("deploy", &["service"]) {
        let joined = text.replace("\\\n", " ");
        let mut section = "";
        let mut keys = BTreeSet::new();
        for line in joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(title) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                assert!(["Unit", "Service", "Install"].contains(&title), "{name}: [{title}]");
                section = title;
                continue;
            }
            let (key, _) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
            assert!(!section.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric()), "{name}: {line}");
            keys.insert(format!("{section}.{key}"));
        }
        for key in ["Unit.Description", "Service.ExecStart", "Install.WantedBy"] {
            assert!(keys.contains(key), "{name}: no {key}");
        }
    }
}

/// Names in an expression of Prometheus that belong to this project's metrics, without the suffixes of histograms.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !is_part(c));
    words.filter(|word| word.starts_with("hiend_")).map(str::to_owned).collect()
}

/// Every name under which a metric appears in a scrape.
fn known_metrics() -> BTreeSet<String> {
    use hiend_loader::stats::MetricKind;
    let all = hiend_loader::stats::METRICS.iter().chain(hiend_trainer::report::metrics::METRICS);
    let all = all.chain(hiend_loader::service::METRICS);
    all.flat_map(|metric| match metric.kind {
        MetricKind::Histogram => {
            ["_sum", "_count", "_bucket"].map(|suffix| format!("{}{suffix}", metric.name)).to_vec()
        }
        MetricKind::Counter | MetricKind::Gauge => vec![metric.name.to_owned()],
    })
    .collect()
}

#[test]
fn dashboards_and_alerts_name_metrics_that_exist() {
    let known = known_metrics();
    let mut shown = BTreeSet::new();
    for (name, text) in files("deploy", &["json"]) {
        let dashboard: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let panels = dashboard["panels"].as_array().unwrap();
        assert!(panels.len() > 10, "{name}");
        let mut ids = BTreeSet::new();
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: panel {} twice", panel["id"]);
            let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
            assert!(panel["type"] == "row" || !targets.is_empty(), "{name}: {}", panel["title"]);
            for target in targets {
                let metrics = metrics_in(target["expr"].as_str().unwrap());
                assert!(!metrics.is_empty(), "{name}: {target}");
                shown.extend(metrics);
            }
        }
        let other = dashboard["annotations"]["list"].as_array().unwrap().iter().map(|note| &note["expr"]);
        let other = other.chain(dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| &v["definition"]));
        shown.extend(other.filter_map(Value::as_str).flat_map(metrics_in));
    }
    assert!(!shown.is_empty());
    for (name, text) in files("deploy", &["yml"]) {
        for document in yaml::documents(&text).unwrap_or_else(|error| panic!("{name}: {error}")) {
            let groups = document["groups"].as_array().into_iter().flatten();
            let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
            shown.extend(rules.flat_map(|rule| metrics_in(rule["expr"].as_str().unwrap())));
            let files = document["rule_files"].as_array().into_iter().flatten();
            for file in files.map(|file| file.as_str().unwrap()) {
                assert!(folder().join("deploy").join(file).is_file(), "{name}: {file}");
            }
        }
    }
    let unknown: Vec<_> = shown.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn dashboard_and_alerts_show_the_ranks() {
    use hiend_trainer::journal::Stage;
    let dashboard = &files("deploy", &["json"])["grafana-dashboard.json"];
    let of_ranks: Vec<String> =
        known_metrics().into_iter().filter(|name| name.starts_with("hiend_train_rank_")).collect();
    assert_eq!(of_ranks.len(), 3);
    for metric in of_ranks {
        assert!(dashboard.contains(&metric), "no panel shows {metric}");
    }
    // The panel of the stages numbers them from 1 and names the numbers.
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let panel = panels.iter().find(|panel| panel["type"] == "state-timeline").unwrap();
    let expression = panel["targets"][0]["expr"].as_str().unwrap();
    let names = &panel["fieldConfig"]["defaults"]["mappings"][0]["options"];
    assert_eq!(names.as_object().unwrap().len(), Stage::ALL.len());
    for (number, stage) in (1..).zip(Stage::ALL.map(Stage::name)) {
        let term =
            format!("{number} * hiend_train_rank_stage{{job=\"hiend-train\",instance=~\"$run\",stage=\"{stage}\"}}");
        assert!(expression.contains(&term), "{expression}");
        assert_eq!(names[number.to_string()]["text"], stage);
    }
    let alerts = &files("deploy", &["yml"])["prometheus-alerts.yml"];
    assert!(alerts.contains("hiend_train_rank_behind_seconds"), "no alert on a late rank");
}

#[test]
fn jobs_of_the_dashboard_are_scraped() {
    let scraped = yaml::documents(&files("deploy", &["yml"])["prometheus.yml"]).unwrap();
    let jobs = scraped[0]["scrape_configs"].as_array().unwrap().iter().map(|job| job["job_name"].as_str().unwrap());
    let jobs: BTreeSet<&str> = jobs.collect();
    let dashboard = &files("deploy", &["json"])["grafana-dashboard.json"];
    let named = dashboard.split("job=\\\"").skip(1).map(|rest| rest.split("\\\"").next().unwrap());
    assert_eq!(named.collect::<BTreeSet<_>>(), jobs);
}

#[test]
fn dockerfiles_are_well_formed() {
    const INSTRUCTIONS: [&str; 11] =
        ["ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "USER", "WORKDIR"];
    let root = folder().join("..");
    for name in DOCKERFILES {
        let text = dockerfile(name);
        let without_comments: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let joined = without_comments.join("\n").replace("\\\n", " ");
        let mut stages = BTreeSet::new();
        let mut user = None;
        for line in joined.lines().filter(|line| !line.trim().is_empty()) {
            let (instruction, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{name}: {line}"));
            assert!(INSTRUCTIONS.contains(&instruction), "{name}: {line}");
            let words: Vec<&str> = rest.split_whitespace().collect();
            match instruction {
                "FROM" => {
                    user = None;
                    let tagged = words[0].rsplit('/').next().unwrap().contains(':') || words[0].starts_with('$');
                    assert!(tagged, "{name}: {} has no tag", words[0]);
                    if let [_, "AS", stage] = words[..] {
                        stages.insert(stage);
                    }
                }
                "COPY" => {
                    if let Some(stage) = words[0].strip_prefix("--from=") {
                        assert!(stages.contains(stage), "{name}: {line}");
                    } else {
                        let sources = &words[..words.len() - 1];
                        // Archives are built, not kept.
                        for source in sources.iter().filter(|source| **source != "." && !source.starts_with("target/"))
                        {
                            assert!(root.join(source).exists(), "{name}: {source}");
                        }
                    }
                }
                "RUN" => {
                    let script = rest.trim_start().trim_start_matches("--mount=type=cache,target=");
                    let parsed = Command::new("bash").args(["-n", "-c", script]).status().unwrap();
                    assert!(parsed.success(), "{name}: {line}");
                }
                "USER" => user = Some(words[0]),
                _ => {}
            }
        }
        assert!(user.is_some_and(|user| user != "root" && user != "0"), "{name}: runs as root");
    }
}
