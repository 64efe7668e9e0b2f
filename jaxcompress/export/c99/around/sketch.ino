// Runs the network @name@ once a second on a picture, which your camera has to fill in.
#include <@header@>
#include <@name@_check.h>
#include <@name@_picture.h>

void setup() {
  Serial.begin(115200);
  // The same integers as exact evaluation, on this very board?
  Serial.println(@name@_check() ? "check: equal" : "check: different");
}

void loop() {
@body@  delay(1000);
}
