"""All that is known of a finished run, on one page that needs nothing but a browser."""

from lightning_distill.reporting.run_page.page import save_run_report

__all__ = ["save_run_report"]
