//! What a process is called: its name and redacted first arguments.
//!
//! Command lines carry secrets, so nothing of one is shown because it looks harmless; it is shown because it is of a
//! kind that is known: the program, an interpreter's script or module, a subcommand from a list, the host of a URL.

use hbpf_core::label::Label;

/// As much of a command line as is read: what is shown stands in its first words.
pub(super) const MAX_COMMAND_LINE_BYTES: usize = 4096;

/// Longest command shown: it is a column of a table.
const MAX_CHARS: usize = 80;

/// Longest word shown.
const MAX_WORD_BYTES: usize = 48;

/// Most words shown.
const MAX_WORDS: usize = 3;

/// Arguments looked at: an interpreter may have a few options before its script, Java has dozens.
const MAX_ARGUMENTS: usize = 64;

/// A program that runs a script.
struct Interpreter {
    /// What its name begins with; version numbers may follow.
    name: &'static str,
    /// Options whose value is the next argument.
    with_value: &'static [&'static str],
    /// Options after which the program itself stands in the next argument.
    inline: &'static [&'static str],
    /// Options that name a module or an archive in the next argument.
    module: &'static [&'static str],
}

const SHELL: Interpreter = Interpreter {
    name: "sh",
    with_value: &["-o", "+o", "-O", "+O", "--rcfile", "--init-file"],
    inline: &["-c", "-lc", "-ic", "-ec", "-xc"],
    module: &[],
};

const INTERPRETERS: [Interpreter; 14] = [
    Interpreter {
        name: "python",
        with_value: &["-W", "-X", "--check-hash-based-pycs"],
        inline: &["-c"],
        module: &["-m"],
    },
    Interpreter { name: "pypy", with_value: &["-W", "-X"], inline: &["-c"], module: &["-m"] },
    Interpreter {
        name: "node",
        with_value: &[
            "-r",
            "--require",
            "--import",
            "--loader",
            "--experimental-loader",
            "-C",
            "--conditions",
            "--env-file",
        ],
        inline: &["-e", "--eval", "-p", "--print", "-pe"],
        module: &[],
    },
    Interpreter {
        name: "java",
        with_value: &[
            "-cp",
            "-classpath",
            "--class-path",
            "-p",
            "--module-path",
            "--add-modules",
            "--add-opens",
            "--add-exports",
        ],
        inline: &[],
        module: &["-jar", "-m", "--module"],
    },
    Interpreter { name: "ruby", with_value: &["-I", "-r", "-C", "-E"], inline: &["-e"], module: &[] },
    Interpreter { name: "perl", with_value: &["-I"], inline: &["-e", "-E"], module: &[] },
    Interpreter { name: "php", with_value: &["-c", "-d"], inline: &["-r"], module: &["-f"] },
    Interpreter { name: "Rscript", with_value: &[], inline: &["-e"], module: &[] },
    Interpreter { name: "lua", with_value: &["-l"], inline: &["-e"], module: &[] },
    Interpreter { name: "bash", ..SHELL },
    Interpreter { name: "dash", ..SHELL },
    Interpreter { name: "zsh", ..SHELL },
    Interpreter { name: "ksh", ..SHELL },
    SHELL,
];

/// Endings by which a script is known.
const SCRIPT_ENDINGS: [&str; 16] = [
    ".py", ".pyc", ".pyz", ".js", ".mjs", ".cjs", ".ts", ".mts", ".rb", ".pl", ".php", ".sh", ".bash", ".R", ".lua",
    ".jar",
];

/// Words that are subcommands wherever they stand first.
const SUBCOMMANDS: [&str; 34] = [
    "agent",
    "app",
    "api",
    "apply",
    "attach",
    "bench",
    "build",
    "chat",
    "complete",
    "daemon",
    "dev",
    "embed",
    "exec",
    "generate",
    "install",
    "launch",
    "list",
    "logs",
    "mcp",
    "proxy",
    "pull",
    "push",
    "ray",
    "run",
    "runner",
    "runserver",
    "serve",
    "server",
    "start",
    "test",
    "train",
    "up",
    "watch",
    "worker",
];

/// Programs whose first argument names an application, as `module:attribute`.
const APPLICATION_SERVERS: [&str; 5] = ["uvicorn", "gunicorn", "hypercorn", "granian", "daphne"];

/// Programs whose first URL says what they are there for.
const URL_CLIENTS: [&str; 6] = ["curl", "wget", "http", "https", "xh", "oha"];

/// Options before a URL that is not the one meant.
const URL_OPTIONS: [&str; 4] = ["-x", "--proxy", "-e", "--referer"];

/// The name shown for a process.
///
/// `comm` is the kernel's name for it, `command_line` its arguments, each ended by a zero, and `executable` its path.
pub(super) fn command(comm: &[u8], command_line: &[u8], executable: Option<&[u8]>) -> Label {
    let arguments: Vec<String> = command_line
        .split(|byte| *byte == 0)
        .take(MAX_ARGUMENTS)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    let mut words = Vec::with_capacity(MAX_WORDS);
    match arguments.first().map(String::as_str) {
        Some(first) if !first.trim().is_empty() => {
            words.push(program(first, comm, executable));
            let title = arguments[1..].iter().all(String::is_empty) && first.contains(' ');
            if !title {
                arguments_shown(&words[0].clone(), &arguments[1..], &mut words);
            }
        }
        // It has no arguments, or has erased them.
        _ => words.push(String::from_utf8_lossy(comm).into_owned()),
    }
    words.truncate(MAX_WORDS);
    Label::new(&words.join(" ").chars().take(MAX_CHARS).collect::<String>())
}

/// The program's own name. A process may set its title to anything: then only its first word counts, and only where it
/// looks like no secret.
fn program(first: &str, comm: &[u8], executable: Option<&[u8]>) -> String {
    let executable = executable.map(|path| String::from_utf8_lossy(last_part_bytes(path)).into_owned());
    let name = last_part(first.trim_start_matches('-'));
    if executable.as_deref() == Some(name) {
        return name.to_owned();
    }
    let name = name.split([' ', '\t']).next().unwrap_or_default();
    // A title's own path ends before its first space.
    let name = if first.contains(' ') { last_part(first.split(' ').next().unwrap_or_default()) } else { name };
    let name = name.trim_end_matches(':');
    if is_word(name) && !looks_secret(name) {
        return name.to_owned();
    }
    match executable {
        Some(executable) if !executable.is_empty() => executable,
        _ => String::from_utf8_lossy(comm).into_owned(),
    }
}

fn arguments_shown(program: &str, arguments: &[String], words: &mut Vec<String>) {
    if let Some(interpreter) = INTERPRETERS.iter().find(|interpreter| interpreter.is(program)) {
        interpreter.arguments_shown(arguments, words);
    } else if URL_CLIENTS.contains(&program) {
        words.extend(first_url(arguments));
    } else if let Some(first) = arguments.first() {
        words.extend(subcommand(program, first));
    }
}

impl Interpreter {
    fn is(&self, program: &str) -> bool {
        program
            .strip_prefix(self.name)
            .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b't')))
    }

    /// The script or module, and its subcommand.
    fn arguments_shown(&self, arguments: &[String], words: &mut Vec<String>) {
        let mut unknown_option = false;
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let argument = argument.as_str();
            if self.inline.contains(&argument) {
                words.push(argument.to_owned());
                return;
            }
            if self.module.contains(&argument) {
                if let Some(module) = rest.next().and_then(|module| word(last_part(module))) {
                    words.extend([argument.to_owned(), module]);
                }
                return;
            }
            if self.with_value.contains(&argument) {
                rest.next();
            } else if argument.starts_with(['-', '+']) {
                // It may have a value, which then is the next argument; short ones that do are all listed.
                unknown_option |= argument.starts_with("--") && !argument.contains('=');
            } else {
                let script = last_part(argument);
                let is_certain = SCRIPT_ENDINGS.iter().any(|ending| script.ends_with(ending));
                if let Some(script) = word(script).filter(|_| is_certain || !unknown_option) {
                    let sub = rest.next().and_then(|next| subcommand(&script, next));
                    words.push(script);
                    words.extend(sub);
                }
                return;
            }
        }
    }
}

fn subcommand(program: &str, argument: &str) -> Option<String> {
    if SUBCOMMANDS.contains(&argument) {
        return Some(argument.to_owned());
    }
    let is_application = APPLICATION_SERVERS.contains(&program) && argument.contains(':');
    if is_application { word(argument) } else { None }
}

/// Scheme and host of the first URL.
fn first_url(arguments: &[String]) -> Option<String> {
    let mut before = "";
    for argument in arguments {
        let found = ["http://", "https://"].iter().find_map(|scheme| Some((*scheme, argument.strip_prefix(scheme)?)));
        if let Some((scheme, rest)) = found.filter(|_| !URL_OPTIONS.contains(&before)) {
            let authority = rest.split(['/', '?', '#', '\\']).next()?;
            let host = authority.rsplit('@').next()?;
            let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
            let is_shown = !host.is_empty() && host.len() <= MAX_WORD_BYTES && host.chars().all(is_host);
            return is_shown.then(|| format!("{scheme}{host}"));
        }
        before = argument;
    }
    None
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn last_part_bytes(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// A word that may be shown.
fn word(text: &str) -> Option<String> {
    (is_word(text) && !looks_secret(text)).then(|| text.to_owned())
}

fn is_word(text: &str) -> bool {
    let is_ordinary = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '+');
    let has_letter = text.bytes().any(|byte| byte.is_ascii_alphabetic());
    has_letter && text.len() <= MAX_WORD_BYTES && text.chars().all(is_ordinary)
}

/// Whether a word could be, or name, a secret. Says yes too often rather than too rarely.
fn looks_secret(word: &str) -> bool {
    const NAMES: [&str; 12] = [
        "key",
        "token",
        "secret",
        "passw",
        "passphrase",
        "pwd",
        "bearer",
        "authorization",
        "credential",
        "cookie",
        "session",
        "apikey",
    ];
    const BEGINNINGS: [&str; 24] = [
        "sk-",
        "sk_",
        "pk-",
        "pk_",
        "rk_",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "github_pat_",
        "glpat-",
        "hf_",
        "xox",
        "akia",
        "asia",
        "eyj",
        "aiza",
        "gsk_",
        "nvapi-",
        "r8_",
        "pplx-",
        "tvly-",
        "dop_v1",
        "npm_",
    ];
    // Tokenizers are no tokens, and AI hosts run them.
    let lower = word.to_ascii_lowercase().replace("tokeniz", "");
    NAMES.iter().any(|name| lower.contains(name))
        || BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning))
        || has_random_run(&lower)
}

/// A long run of letters and digits that no word is made of.
fn has_random_run(lower: &str) -> bool {
    /// Names of programs with this many letters and digits on end, digits in between, have not been seen.
    const RUN: usize = 16;
    lower.split(|c: char| !c.is_ascii_alphanumeric()).any(|run| {
        let digits = run.bytes().filter(u8::is_ascii_digit).count();
        let is_hexadecimal = run.bytes().all(|byte| byte.is_ascii_hexdigit());
        run.len() >= RUN && (digits >= 2 || is_hexadecimal) || run.len() >= 2 * RUN
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(arguments: &[&str]) -> String {
        let line: Vec<u8> = arguments.iter().flat_map(|argument| [argument.as_bytes(), b"\0"].concat()).collect();
        command(b"comm", &line, None).as_str().to_owned()
    }

    #[test]
    fn programs_scripts_modules_and_subcommands() {
        let table: &[(&[&str], &str)] = &[
            (&["/usr/bin/ollama", "serve"], "ollama serve"),
            (&["/usr/local/bin/ollama", "runner", "--model", "/x/y"], "ollama runner"),
            (
                &["python3", "-m", "vllm.entrypoints.openai.api_server", "--api-key", "abc"],
                "python3 -m vllm.entrypoints.openai.api_server",
            ),
            (&["/opt/venv/bin/python3.11", "/opt/venv/bin/vllm", "serve", "meta/llama"], "python3.11 vllm serve"),
            (&["python", "-u", "-W", "ignore", "/srv/app/main.py", "hunter2"], "python main.py"),
            (&["python3", "-c", "print('secret')"], "python3 -c"),
            (&["python3"], "python3"),
            (&["python3", "-"], "python3"),
            (&["node", "--max-old-space-size=4096", "-r", "dotenv/config", "/app/server.js"], "node server.js"),
            (&["node", "-e", "fetch('x')"], "node -e"),
            (&["node", "--strange", "value"], "node"),
            (&["node", "--strange", "value.js"], "node value.js"),
            (&["java", "-Xmx4g", "-Dapi.key=x", "-cp", "/a:/b", "com.example.Main", "x"], "java com.example.Main"),
            (&["java", "-jar", "/srv/app.jar", "--password=x"], "java -jar app.jar"),
            (&["bash", "/dev/fd/3"], "bash"),
            (&["bash", "-c", "curl -H 'Authorization: Bearer x'"], "bash -c"),
            (&["/bin/sh", "/etc/init.d/thing", "start"], "sh thing start"),
            (&["ruby", "-I", "lib", "app.rb"], "ruby app.rb"),
            (&["uvicorn", "app.main:app", "--port", "80"], "uvicorn app.main:app"),
            (&["python3", "/usr/bin/uvicorn", "app:app"], "python3 uvicorn app:app"),
            (&["-bash"], "bash"),
            (&["llama-server", "-m", "/models/x.gguf"], "llama-server"),
            (&["nginx: worker process"], "nginx"),
            (&["gunicorn: master [app:app]"], "gunicorn"),
            (&["sshd: root@pts/0"], "sshd"),
            (&["VLLM::EngineCore"], "VLLM::EngineCore"),
            (&["curl", "-s", "https://api.openai.com/v1/models"], "curl https://api.openai.com"),
            (&["curl", "http://[::1]:8080/v1"], "curl http://[::1]:8080"),
            (&["curl", "-x", "http://proxy:3128", "http://there/"], "curl http://there"),
            (&["mycli", "correcthorse"], "mycli"),
            (&["tokenizer-server", "run"], "tokenizer-server run"),
        ];
        for (arguments, expected) in table {
            assert_eq!(shown(arguments), *expected, "{arguments:?}");
        }
    }

    #[test]
    fn no_secret_is_shown_wherever_it_stands() {
        const CANARIES: [&str; 22] = [
            "sk-proj-c4n4ry",
            "sk-ant-api03-c4n4ry",
            "ghp_c4n4ry",
            "hf_c4n4ry",
            "AKIAc4n4ryXXXX",
            "xoxb-c4n4ry",
            "eyJc4n4ry.eyJ",
            "AIzac4n4ry",
            "gsk_c4n4ry",
            "nvapi-c4n4ry",
            "--api-key=c4n4ry",
            "API_TOKEN=c4n4ry",
            "c4n4ry-password",
            "Authorization: Bearer c4n4ry",
            "https://me:c4n4ry@host/path",
            "https://host/?key=c4n4ry",
            "https://host/bot-c4n4ry/send",
            "https://host#c4n4ry",
            "postgres://u:c4n4ry@db/x",
            "c4n4ry0123456789abcdef",
            "c4n4ryAbCdEfGhIjKlMnOpQrStUvWxYz0123",
            "c4n4ry/AbCdEfGhIjKlMn0pQrStUvWxYz01==",
        ];
        const LINES: [&[&str]; 15] = [
            &["@"],
            &["curl", "@"],
            &["curl", "-H", "@"],
            &["curl", "-u", "@", "https://host/@"],
            &["python3", "@"],
            &["python3", "-m", "@"],
            &["python3", "-c", "@"],
            &["python3", "--odd", "@"],
            &["python3", "x.py", "@"],
            &["node", "@", "serve"],
            &["java", "@"],
            &["java", "-jar", "@"],
            &["bash", "-c", "@"],
            &["thing", "@"],
            &["uvicorn", "@"],
        ];
        for canary in CANARIES {
            for line in LINES {
                let line: Vec<String> = line.iter().map(|argument| argument.replace('@', canary)).collect();
                let shown = shown(&line.iter().map(String::as_str).collect::<Vec<_>>());
                assert!(!shown.to_lowercase().contains("c4n4ry"), "{line:?} is shown as {shown}");
            }
        }
    }

    #[test]
    fn odd_command_lines_have_a_name_and_are_short() {
        let long = vec![b'a'; MAX_COMMAND_LINE_BYTES];
        let junk: [&[u8]; 8] = [b"", b"\0", b"\0\0\0", b" ", b"\xff\xfe\0\xff", b"-", b"/", &long];
        for line in junk {
            let shown = command(b"comm", line, None);
            assert!(!shown.as_str().is_empty() && shown.as_str().chars().count() <= MAX_CHARS, "{line:?}");
        }
        assert_eq!(command(b"comm", b"", None).as_str(), "comm");
        assert_eq!(command(b"c\x1b[2J", b"", None).as_str(), "c\u{fffd}[2J");
        let path = b"/usr/bin/gnome-keyring-daemon";
        assert_eq!(
            command(b"gnome-keyring-d", b"gnome-keyring-daemon\0--start\0", Some(path)).as_str(),
            "gnome-keyring-daemon"
        );
    }
}
