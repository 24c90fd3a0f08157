//! The files of `web/`, embedded in the binary.

/// One file as it is served.
#[derive(Debug)]
pub(in crate::io) struct Asset {
    /// Where it is served.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: &'static [u8],
}

impl Asset {
    /// An entity tag (RFC 9110 §8.8.3) that changes with the file's bytes. Made anew each time: a
    /// page's worth of hashing costs less than the connection that asks for it.
    pub fn etag(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.body);
        let half = &digest.as_ref()[..16];
        let hex: String = half.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("\"{hex}\"")
    }
}

/// The file served at `path`.
pub(in crate::io) fn find(path: &str) -> Option<&'static Asset> {
    let path = match path {
        "/" => "/index.html",
        path => path,
    };
    ASSETS.iter().find(|asset| asset.path == path)
}

macro_rules! assets {
    ($($path:literal $content_type:expr,)*) => {
        &[$(Asset {
            path: $path,
            content_type: $content_type,
            body: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/web", $path)),
        },)*]
    };
}

const CSS: &str = "text/css; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

static ASSETS: &[Asset] = assets! {
    "/app.js" JS,
    "/badge.js" JS,
    "/call-view.js" JS,
    "/device-choice.js" JS,
    "/devices.js" JS,
    "/dom.js" JS,
    "/flags.js" JS,
    "/icon.svg" SVG,
    "/index.html" HTML,
    "/join-view.js" JS,
    "/layout.js" JS,
    "/media.js" JS,
    "/messages.js" JS,
    "/meter.js" JS,
    "/names.js" JS,
    "/notices.js" JS,
    "/people-view.js" JS,
    "/quality.js" JS,
    "/sdk/backoff.js" JS,
    "/sdk/encodings.js" JS,
    "/sdk/negotiation.js" JS,
    "/sdk/room.js" JS,
    "/sdk/sdp.js" JS,
    "/sdk/shardcast.js" JS,
    "/sdk/signaling.js" JS,
    "/sdk/stats.js" JS,
    "/sdk/types.js" JS,
    "/sdk/watch.js" JS,
    "/sound.js" JS,
    "/store.js" JS,
    "/style.css" CSS,
    "/theme.js" JS,
    "/tile-view.js" JS,
    "/tiles.js" JS,
    "/toolbar.js" JS,
    "/wishes.js" JS,
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// What is in `web/` for those who work on it, not for browsers.
    const NOT_SERVED: [&str; 4] = [
        "/node_modules",
        "/package.json",
        "/package-lock.json",
        "/tsconfig.json",
    ];

    fn collect(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("/{}", path.strip_prefix(root).unwrap().display());
            if NOT_SERVED.contains(&name.as_str()) {
                continue;
            }
            match path.is_dir() {
                true => collect(root, &path, found),
                false => _ = found.insert(name),
            }
        }
    }

    #[test]
    fn every_file_of_the_page_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let mut found = BTreeSet::new();
        collect(&root, &root, &mut found);
        let embedded: BTreeSet<String> = ASSETS.iter().map(|a| a.path.to_owned()).collect();
        assert_eq!(embedded, found);
        assert_eq!(embedded.len(), ASSETS.len());
    }

    #[test]
    fn content_types_fit_the_names_and_tags_differ() {
        let mut tags = BTreeSet::new();
        for asset in ASSETS {
            let expected = match asset.path.rsplit_once('.').unwrap().1 {
                "css" => CSS,
                "html" => HTML,
                "js" => JS,
                "svg" => SVG,
                other => panic!("no type for {other}"),
            };
            assert_eq!(asset.content_type, expected, "{}", asset.path);
            assert!(tags.insert(asset.etag()), "{}", asset.path);
        }
        assert!(find("/index.html").is_some() && find("/").is_some());
        assert!(find("//index.html").is_none() && find("").is_none());
    }
}
