"""Other people's retrievers, each library imported in one file; `pip install 'hierlandmark[eval]'` brings them all."""
