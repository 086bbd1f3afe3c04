//! Reference models, generators and failing readers for tests. Never a normal dependency.
