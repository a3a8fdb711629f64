"""A store in a bucket: a folder of this machine is its working copy, the bucket what all share."""
