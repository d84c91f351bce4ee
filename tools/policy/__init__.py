"""Parts of `tools/policy_page.py`: transfer between families, the page."""
