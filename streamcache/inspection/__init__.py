"""A look through a whole cache directory: is everything what it should be?

Blocks; for a program of its own, without a hub (``streamcache verify``). Servers may use the
directory meanwhile: this is one more process that shares it. What looks wrong is looked at again
under the lock of its key, so that what somebody is just doing is not taken for damage, and repaired
there. Without ``repair`` nothing is written.
"""
