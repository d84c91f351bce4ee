"""Records of builds and benches as a page that people look at: HTML, Markdown and JSON from one view."""
