"""Conversations: which there are, and what was said in them."""

from codegen_api.dialects.openai.dependencies import routes_about

router = routes_about("conversations")
