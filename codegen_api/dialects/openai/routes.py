"""Responses: something is said, and what comes of it is streamed, waited for, or asked for later."""

from codegen_api.dialects.openai.dependencies import routes_about

router = routes_about("responses")
