//! Pages of docs/ that are made from the code, behind what is written by hand.

/// What the code's part begins with.
const MARK: &str = "<!-- generated -->\n";

/// Has pages written anew instead of compared.
const UPDATE: &str = "HBPF_UPDATE_DOCS";

/// Fails unless the page has this.
pub(crate) fn is_in_page(name: &str, reference: &str) {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&path).unwrap();
    let (own, generated) = page.split_once(MARK).unwrap();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(path, format!("{own}{MARK}\n{reference}")).unwrap();
        return;
    }
    assert!(generated.trim() == reference.trim(), "write it anew: {UPDATE}=1 cargo test -p hbpf-tui --lib the_page_is");
}
