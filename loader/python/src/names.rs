//! Names of flags and keys in messages of the workspace's crates, replaced by those of Python's arguments.

/// Flags of the programs and keys of their configuration, each with its name in Python. A name that continues another one
/// comes first. Flags of a service, such as `--client-memory`, remain.
const NAMES: &[(&str, &str)] = &[
    (" --change-parameters", " change_parameters=True"),
    (" --codec fast", " codec=\"fast\""),
    (" --compact", " compact=True"),
    (" --exclude NAME", " exclude=\"NAME\""),
    (" --forget-lost", " forget_lost=True"),
    (" --jobs", " jobs"),
    (" --memory", " memory"),
    (" --normalize ", " normalize="),
    (" --on-suspect skip", " on_suspect=\"skip\""),
    (" --out", " out"),
    (" --prune=all", " prune=\"all\""),
    (" --prune", " prune=True"),
    (" --reconvert", " reconvert"),
    (" --spacing", " spacing"),
    (" --store full", " store=\"full\""),
    (" --window", " window"),
    (" stream.exclude", " exclude"),
    (" stream.include", " include"),
    (" stream.window", " window"),
    ("(hiend-shard stream: --token-file; hiend-train: --loader-token-file)", "(the argument token)"),
    ("(--tls-ca of hiend-shard, --loader-ca of hiend-train, `ca` in Python)", "(the argument ca)"),
    (" (--shards)", ""),
    ("on_corrupt = \"", "on_corrupt=\""),
    (" rule = \"", " fold_rule=\""),
];

/// Message as Python users read it.
pub(crate) fn in_python(text: &str) -> String {
    let text = text.strip_prefix("stream.").unwrap_or(text);
    NAMES.iter().fold(text.to_owned(), |text, (name, argument)| text.replace(name, argument))
}
