"""Objects (rendered speech, recordings) in a directory or in S3, behind one small interface; see `store`."""
