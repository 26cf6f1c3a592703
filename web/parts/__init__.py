"""The script of the page, in readable parts; `web/page.py` joins them."""
