"""Real agent servers as processes of their own, offline, and the model that they all ask.

What an agent does is said in its prompt, in the same words for every host: see ``model``.
"""
