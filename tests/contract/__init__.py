"""The contract: one list of behaviours that hold in the core, in LangChain and in LlamaIndex alike.

``layers`` has an adapter for each; ``conftest`` runs every test over all of them and, where a test asks for ``way``, over the
four ways to ask. What only one framework has (callbacks, events, its wrappers, its standard suite) is tested beside its code.
"""
