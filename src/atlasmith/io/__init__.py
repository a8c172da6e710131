"""Reading and writing: images, transforms, tables. The only place where RAS meets ITK's LPS."""
