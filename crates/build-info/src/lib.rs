//! What this build is: version, commit, time, profile, compiler. Printed by `--version` of both programs and shown by the API.
//!
//! Knows no program and reads nothing at run time; the values come from `build.rs`. Invariant: integrators find the version with
//! `Version:\s*(v.*)` and the commit with `Git Commit:\s*(.+)` in what [`BuildInfo::render`] gives.
#![forbid(unsafe_code)]

#[cfg(test)]
mod calendar;

/// Facts about a build. All are one line of text without line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildInfo {
    /// Version of the package with a leading `v`: `v0.1.0`.
    pub package_version: &'static str,
    /// Commit in 40 hex digits, or `unknown` for a build outside a checkout.
    pub git_commit: &'static str,
    /// When it was built, or `SOURCE_DATE_EPOCH`: RFC 3339 in UTC.
    pub build_time: &'static str,
    /// `debug` or `release`.
    pub profile: &'static str,
    /// What `rustc --version` said.
    pub rustc: &'static str,
}

/// This build.
pub const BUILD_INFO: BuildInfo = BuildInfo {
    package_version: concat!("v", env!("CARGO_PKG_VERSION")),
    git_commit: env!("BUILD_INFO_GIT_COMMIT"),
    build_time: env!("BUILD_INFO_TIME"),
    profile: env!("BUILD_INFO_PROFILE"),
    rustc: env!("BUILD_INFO_RUSTC"),
};

impl BuildInfo {
    /// The text of `--version`: the program's name (nothing for `None`), a blank and a carriage return, five `label: <tab>value` lines
    /// and an empty line, as Nydus 2.x prints them.
    pub fn render(&self, program: Option<&str>) -> String {
        let program = program.unwrap_or_default();
        let Self { package_version, git_commit, build_time, profile, rustc } = self;
        format!(
            "{program} \rVersion: \t{package_version}\nGit Commit: \t{git_commit}\nBuild Time: \t{build_time}\n\
             Profile: \t{profile}\nRustc: \t\t{rustc}\n\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_text_is_what_integrators_parse() {
        let info = BuildInfo {
            package_version: "v1.2.3",
            git_commit: "abc",
            build_time: "2026-01-02T03:04:05Z",
            profile: "release",
            rustc: "rustc 1.95.0",
        };
        let lines = "Version: \tv1.2.3\nGit Commit: \tabc\nBuild Time: \t2026-01-02T03:04:05Z\nProfile: \trelease\nRustc: \t\trustc 1.95.0\n\n";
        assert_eq!(info.render(Some("nydusd")), format!("nydusd \r{lines}"));
        assert_eq!(info.render(None), format!(" \r{lines}"));
    }

    #[test]
    fn this_build_is_described() {
        let commit = BUILD_INFO.git_commit;
        let is_hex = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_hex || commit == "unknown", "{commit:?}");
        assert!(BUILD_INFO.package_version.starts_with('v'));
        assert!(BUILD_INFO.rustc.starts_with("rustc "), "{:?}", BUILD_INFO.rustc);
        assert!(["debug", "release"].contains(&BUILD_INFO.profile), "{:?}", BUILD_INFO.profile);
        assert!(BUILD_INFO.build_time.ends_with('Z') && BUILD_INFO.build_time.len() == 20);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(calendar::rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(calendar::rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(calendar::rfc3339(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(calendar::rfc3339(1_709_251_200), "2024-03-01T00:00:00Z");
        assert_eq!(calendar::rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
